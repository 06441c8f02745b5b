"""Claims a matcher's name that another distribution has taken. Nobody gets as far as to import it."""

raise RuntimeError("imported, though the name it claims is disputed")
