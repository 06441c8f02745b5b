"""What is done to images: preprocessing, siamese augmentation, resampling and training policies."""
