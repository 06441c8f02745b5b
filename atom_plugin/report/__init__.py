"""Sets, their runs and their results on one page that needs nothing beside it."""
