"""One module per outside system; each is imported only by those who use it."""
