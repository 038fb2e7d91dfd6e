"""Where the adapters of class groups lie, and how one gets into a plain transformer."""

import copy
from dataclasses import replace
from pathlib import Path

from distillery.models.base import DiffusionBase
from distillery.tensorfile import read_tensors
from finetune.difffit import merge_adapter


def adapter_path(folder: Path, group: int) -> Path:
    """Return where the finetune stage keeps the adapter of a group of classes."""
    return folder / f"adapter-{group:04d}.safetensors"


def with_adapter(base: DiffusionBase, folder: Path, group: int) -> DiffusionBase:
    """Return the base with a group's adapter folded into a copy of its transformer.

    Raises:
        ModelError: If the adapter was trained on another base.
    """
    transformer = copy.deepcopy(base.transformer)
    merge_adapter(transformer, read_tensors(adapter_path(folder, group))[0])
    return replace(base, transformer=transformer)
