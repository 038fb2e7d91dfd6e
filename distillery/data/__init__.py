"""Datasets: sources, decoding, splits, augmentation, corruptions."""
