"""The standalone application, and what is mounted on a WebUI's own."""
