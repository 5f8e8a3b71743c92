"""The command line: its commands, the packaged configs, and the texts of errors."""
