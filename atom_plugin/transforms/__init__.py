"""Transforms of images: preprocessing, siamese augmentation, resampling and training policies."""
