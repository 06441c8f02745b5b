"""Distillation: the run's config and recipes, the loop, initial images, checkpoints and the log."""
