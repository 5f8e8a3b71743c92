"""DataModules of public datasets, one file each."""
