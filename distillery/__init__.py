"""Distillery: image-classification datasets distilled to a handful of images per class.

import distillery
data = distillery.load("distilled.safetensors")  # verifies; numpy only
train = data.torch()                             # torch Dataset of (uint8 image, label)
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillery.bundle.dataset import DistilledDataset


def load(path: str | PathLike[str]) -> "DistilledDataset":
    """Read and verify a bundle: `distilled.safetensors`, or the folder that holds it.

    Raises:
        distillery.errors.BundleError: If the file is missing, damaged or not a bundle.
    """
    from pathlib import Path

    from distillery.bundle.read import read_bundle  # here, so that importing stays free

    return read_bundle(Path(path))
