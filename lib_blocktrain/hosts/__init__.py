"""The programs that hold the model: the protocol `Host`, the standalone host, and the WebUIs."""
