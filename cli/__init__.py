"""The click commands. Importing this package imports neither torch nor any other heavy library."""
