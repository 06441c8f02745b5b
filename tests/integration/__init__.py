"""Several modules at once, most of them through the command line."""
