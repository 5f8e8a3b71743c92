"""The packaged configs; this file lets an editable install find them by their package name."""
