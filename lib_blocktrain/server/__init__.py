"""The standalone application, and the functions that mount the extension in a WebUI."""
