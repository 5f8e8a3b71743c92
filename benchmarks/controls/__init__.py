"""Controls and tables of published results, as a package beside epic_pl."""
