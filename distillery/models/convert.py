"""One-time conversion of published pickle weights (`.bin`) to safetensors.

The only place that unpickles, with torch's restricted reader that builds tensors and nothing else.
As a command: `python -m distillery.models.convert FOLDER`.
"""

import os
import shutil
import sys
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillery.errors import DistilleryError, ModelError
from distillery.models.components import new_folder


def convert_weights(path: Path, target: Path | None = None) -> Path:
    """Write the tensors of a `.bin` file as safetensors.

    Args:
        path: A state dict that torch saved.
        target: File to write; None: beside `path`, with the ending changed.

    Returns:
        The file written.

    Raises:
        ModelError: If the file is missing, holds anything but named tensors, or `target` exists.
    """
    target = target or path.with_suffix(".safetensors")
    if target.exists():
        raise ModelError(f"{target} exists already: {path.name} was converted before")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, UnpicklingError, RuntimeError, EOFError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot read {path} as a file of tensors only: {first_line}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} must hold named tensors and nothing else: get the weights again")
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    # clones, because safetensors refuses tensors that share memory
    tensors = {str(name): tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, target)
    return target


def convert_folder(folder: Path, target: Path | None = None) -> list[Path]:
    """Convert the `.bin` weights of every part of a model folder that has no safetensors yet.

    Args:
        folder: A model folder; its subfolders hold `*.bin` files.
        target: New folder to write a converted copy to; None: convert in place.

    Returns:
        The files written.

    Raises:
        ModelError: See `convert_weights`; also if there is no folder, or a part's weights are cut
            into pieces.
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}: name one whose parts hold .bin weights")
    if target is None:
        return _convert_parts(folder, folder)
    with new_folder(target) as partial:
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns("*.bin"), dirs_exist_ok=True)
        written = _convert_parts(folder, partial)
    return [target / path.relative_to(partial) for path in written]


def _convert_parts(folder: Path, target: Path) -> list[Path]:
    """Convert each part of `folder` into the same part of `target`."""
    written = []
    for part in sorted({path.parent for path in folder.rglob("*.bin")}):
        weights = sorted(part.glob("*.bin"))
        if any(part.glob("*.safetensors")):
            continue
        if len(weights) > 1:
            raise ModelError(f"{part} must hold one .bin file, got {len(weights)}: join them first")
        name = weights[0].with_suffix(".safetensors").name
        written.append(convert_weights(weights[0], target / part.relative_to(folder) / name))
    return written


def main(arguments: list[str]) -> int:
    """Convert the folders named on the command line; return the exit status."""
    if not arguments:
        sys.stderr.write("usage: python -m distillery.models.convert FOLDER...\n")
        return 2
    try:
        for argument in arguments:
            for path in convert_folder(Path(argument)):
                sys.stdout.write(f"{path}\n")
    except DistilleryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
