"""What a set tells about the real images that it was made of, measured: attacks on networks trained on it, and copies in it."""
