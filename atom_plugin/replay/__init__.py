"""Replay for continual learning, framework-free: a memory of synthetic images, what fills it, and what a stream reached."""
