"""The command line. Standard library only until a command's environment is ready."""
