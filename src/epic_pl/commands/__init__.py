"""Commands that build what the command line describes, each with its parser and its run."""
