"""Distillery: image-classification datasets distilled to a handful of images per class.

import distillery
data = distillery.load("distilled.safetensors")  # verifies; numpy only
train = data.torch()                             # torch Dataset of (uint8 image, label)

client = distillery.Client("http://127.0.0.1:8000", api_key="dst_...")   # a service; no torch
data = client.jobs.create(dataset="digits", ipc=10).wait().download("out")
"""

from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillery.bundle.dataset import DistilledDataset
    from distillery.client.client import Client


def load(path: str | PathLike[str]) -> "DistilledDataset":
    """Read and verify a bundle: `distilled.safetensors`, or the folder that holds it.

    Raises:
        distillery.errors.BundleError: If the file is missing, damaged or not a bundle.
    """
    from pathlib import Path

    from distillery.bundle.read import read_bundle  # here, so that importing stays free

    return read_bundle(Path(path))


def __getattr__(name: str) -> Any:
    """Return `Client` when it is first asked for, so that importing stays free."""
    if name == "Client":
        from distillery.client.client import Client

        return Client
    raise AttributeError(f"module 'distillery' has no attribute {name!r}")


__all__ = ["Client", "load"]
