"""Commands as functions; each typed parameter is an option of the command line."""
