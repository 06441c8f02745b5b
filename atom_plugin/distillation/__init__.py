"""Distillation: the run's config and recipes, the loop, what images start from, checkpoints and the log."""
