"""DiT pipelines that are on this machine: in the Hub's cache, and in a folder of models.

Only JSON files and the headers of weights are read, nothing is fetched: no torch, and no client of
the Hub.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.errors import ModelError
from distillery.files import read_json
from distillery.models.facts import (
    PIPELINE_FILE,
    SCHEDULER_FILE,
    read_facts,
    read_labels,
    read_licence,
)
from distillery.tensorfile import read_header

PIPELINE_CLASS = "DiTPipeline"
PARTS = ("transformer", "vae")
"""Parts of a DiT pipeline that have weights."""
MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library has it; more is no header."""
REPOSITORY = "models--"
"""How the Hub's cache begins the names of the folders of models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalPipeline:
    """A folder that should hold a DiT pipeline."""

    reference: str
    """What a job names it by: a Hub id, or the folder's path."""
    name: str
    """What a person calls it: the Hub id, or the folder's own name."""
    folder: Path
    revision: str | None
    """Commit of the snapshot in the Hub's cache; None for a folder of the user's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFacts:
    """What the JSON files and the card of a pipeline say."""

    image_size: int
    num_rows: int
    """Classes that its label tables have rows for."""
    id2label: Mapping[int, str]
    """Names of those rows, as far as known."""
    licence: str | None
    transformer: Mapping[str, Any]
    """Configuration of the transformer, as diffusers writes it."""
    vae: Mapping[str, Any]
    """That of the autoencoder."""


def local_pipelines(hub_cache: Path, models: Path | None) -> tuple[LocalPipeline, ...]:
    """Return the DiT pipelines that are here, the Hub's first, each by name.

    What should be one but cannot be read is among them: `pipeline_facts` says what is wrong.

    Args:
        hub_cache: Where the Hub's client keeps models.
        models: Folder whose subfolders are pipelines; links are left out.
    """
    return (*_in_hub_cache(hub_cache), *_in_folder(models))


def pipeline_facts(folder: Path, reference: str) -> PipelineFacts:
    """Return what the files of a pipeline say of it; `reference` names it in the error.

    Raises:
        ModelError: If they do not describe a DiT pipeline.
    """
    try:
        transformer = read_json(folder / "transformer" / "config.json")
        vae = read_json(folder / "vae" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size, rows = int(transformer["sample_size"]), int(transformer["num_embeds_ada_norm"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{reference!r} holds no base model: expected a diffusers DiT pipeline (transformer/, "
            "vae/, scheduler/) or a folder that `distillery pretrain` wrote"
        ) from error
    return PipelineFacts(
        image_size=size * factor, num_rows=rows, id2label=read_labels(folder / PIPELINE_FILE),
        licence=read_licence(folder), transformer=transformer, vae=vae,
    )  # fmt: skip


def check_whole(folder: Path) -> None:
    """Refuse a pipeline whose files are not all there, or whose weights are cut off.

    Raises:
        ModelError: If `load_base` could not read them, and no `.bin` files can be converted.
    """
    if not (folder / SCHEDULER_FILE).is_file():
        raise ModelError(f"{SCHEDULER_FILE} is missing")
    for part in PARTS:
        files = sorted((folder / part).glob("*.safetensors"))
        if not files and not any((folder / part).glob("*.bin")):
            raise ModelError(f"{part}/ has no weights")
        if any(not _is_whole(path) for path in files):
            raise ModelError(f"the weights in {part}/ are not whole")


def _is_whole(path: Path) -> bool:
    """Say whether a safetensors file is as long as its header says."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            return False
        entries, _, start = read_header(path)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        return path.stat().st_size == start + end
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return False  # a link of the cache that leads nowhere, or no such file at all


def _in_hub_cache(hub_cache: Path) -> Iterator[LocalPipeline]:
    """Return a snapshot of each repository: the main branch's, else the last by its commit."""
    for place in sorted(hub_cache.glob(f"{REPOSITORY}*--*")):
        commits = sorted(
            path.name for path in (place / "snapshots").glob("*") if _is_pipeline(path)
        )
        if not commits:
            continue
        try:
            main = (place / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, ValueError):  # it was fetched by its commit
            main = commits[-1]
        commit = main if main in commits else commits[-1]
        name = place.name.removeprefix(REPOSITORY).replace("--", "/", 1)
        yield LocalPipeline(
            reference=name, name=name, folder=place / "snapshots" / commit, revision=commit
        )


def _in_folder(models: Path | None) -> Iterator[LocalPipeline]:
    """Return the pipelines in the folder of models."""
    for folder in sorted(models.glob("*")) if models is not None else ():
        if not folder.is_symlink() and _is_pipeline(folder):
            yield LocalPipeline(
                reference=str(folder), name=folder.name, folder=folder, revision=None
            )


def _is_pipeline(folder: Path) -> bool:
    """Say whether a folder should hold a DiT pipeline: it says so, or what it says is broken."""
    index = folder / PIPELINE_FILE
    if not index.is_file():
        return False
    try:
        return read_facts(index).get("_class_name") == PIPELINE_CLASS
    except ModelError:
        return True
