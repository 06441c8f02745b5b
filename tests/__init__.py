"""A package, so that `tests.small` is ours: avalanche-lib installs a top-level package of that name too."""
