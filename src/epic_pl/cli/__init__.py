"""The command line: commands, configs, and the text of errors."""
