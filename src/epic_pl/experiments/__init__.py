"""Many runs: comparison of methods and search of options."""
