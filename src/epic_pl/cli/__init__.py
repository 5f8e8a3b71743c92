"""The command line: its commands, and the packaged configs."""
