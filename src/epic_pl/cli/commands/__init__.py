"""Commands as functions with typed parameters, each of which is an option of the command line."""
