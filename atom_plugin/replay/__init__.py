"""Replay for continual learning, independent of frameworks: a memory of synthetic images, the policies that fill it, and
results.
"""
