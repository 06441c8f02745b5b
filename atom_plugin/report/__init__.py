"""One HTML page with sets, their runs and their results, without external files."""
