"""Where the adapters of class groups lie, and how one gets into a plain transformer."""

from pathlib import Path

from torch import nn

from distillery.tensorfile import read_tensors
from finetune.difffit import merge_adapter


def adapter_path(folder: Path, group: int) -> Path:
    """Return where the finetune stage keeps the adapter of a group of classes."""
    return folder / f"adapter-{group:04d}.safetensors"


def load_adapter(transformer: nn.Module, folder: Path, group: int) -> None:
    """Fold the adapter of a group into the transformer, in place."""
    merge_adapter(transformer, read_tensors(adapter_path(folder, group))[0])
