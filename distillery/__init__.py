"""Distillery: image-classification datasets distilled to a handful of images per class.

import distillery
data = distillery.load("distilled.safetensors")  # verifies; numpy only
train = data.torch()                             # torch Dataset of (uint8 image, label)
"""
