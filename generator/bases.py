"""Named bases: where they lie, and what can be said of them before their weights are read."""

from dataclasses import dataclass
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import read_json
from distillery.models.config import PUBLISHED_BASES
from distillery.models.hub import commit_of, fetch_base, is_repo_id
from finetune.config import BaseKind


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a plan needs to know of a named base."""

    kind: BaseKind
    folder: Path
    image_size: int
    licence: str | None
    revision: str | None


def find_base(reference: str, *, revision: str | None, allow_download: bool) -> Path:
    """Return the folder of a base: a local one, or a Hub id in the cache (or fetched).

    Raises:
        ModelError: If there is no such folder or repository.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if is_repo_id(reference):
        return fetch_base(reference, revision, allow_download=allow_download)
    raise ModelError(
        f"no base model {reference!r}: expected auto, pixel, a folder, or a Hub id such as "
        f"{next(iter(PUBLISHED_BASES))}"
    )


def base_facts(reference: str, *, revision: str | None, allow_download: bool) -> BaseFacts:
    """Return what the JSON files of a base say of it.

    Raises:
        ModelError: If there is no such base, or its files do not describe one.
    """
    folder = find_base(reference, revision=revision, allow_download=allow_download)
    try:
        transformer = read_json(folder / "transformer" / "config.json")
        size = int(transformer["sample_size"])
        if (folder / "distillery.json").exists() and not (folder / "vae").is_dir():
            licence = read_json(folder / "distillery.json").get("licence")
            return BaseFacts("pixel", folder, size, licence, None)
        vae = read_json(folder / "vae" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{reference!r} holds no base model: expected a diffusers DiT pipeline (transformer/, "
            "vae/, scheduler/) or a folder that `distillery pretrain` wrote"
        ) from error
    published = PUBLISHED_BASES.get(reference)
    return BaseFacts(
        "latent", folder, size * factor, published.licence if published else None, commit_of(folder)
    )
