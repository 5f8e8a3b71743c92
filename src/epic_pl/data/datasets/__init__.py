"""One file for each public dataset."""
