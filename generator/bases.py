"""Named bases: where they lie, and what can be said of them before their weights are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.sources.stamp import source_stamp
from distillery.errors import ModelError
from distillery.files import expand_user, read_json
from distillery.models.class_rows import ClassMapping
from distillery.models.config import PUBLISHED_BASES
from distillery.models.facts import FACTS_FILE
from distillery.models.hub import commit_of, fetch_base, is_repo_id
from distillery.models.shelf import pipeline_facts
from finetune.config import BaseKind


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFacts:
    """What a plan needs to know of a named base."""

    kind: BaseKind
    folder: Path
    image_size: int
    channels: int | None
    """What a pixel base was trained on; None: a latent base takes gray and colour images."""
    num_rows: int
    """Classes that its label tables have rows for."""
    id2label: Mapping[int, str]
    """Names of those rows, as far as known."""
    licence: str | None
    revision: str | None


def find_base(reference: str, *, revision: str | None, allow_download: bool) -> Path:
    """Return the folder of a base: a local one, or a Hub id in the cache (or fetched).

    Raises:
        ModelError: If there is no such folder or repository.
    """
    folder = expand_user(reference)
    if folder.is_dir():
        return folder.resolve()
    if is_repo_id(reference):
        return fetch_base(reference, revision, allow_download=allow_download)
    raise ModelError(
        f"no base model {reference!r}: expected auto, pixel, a folder, or a Hub id such as "
        f"{next(iter(PUBLISHED_BASES))}"
    )


def base_stamp(reference: str) -> list[str] | None:
    """Return place and stamp of the files of a base in a folder, None for a Hub id.

    The same words are another base in another folder, or once its weights are replaced.
    """
    folder = expand_user(reference)
    if not folder.is_dir():
        return None
    return [str(folder.resolve()), source_stamp(str(folder)) or ""]


def base_facts(reference: str, *, revision: str | None, allow_download: bool) -> BaseFacts:
    """Return what the JSON files of a base say of it.

    Raises:
        ModelError: If there is no such base, or its files do not describe one.
    """
    folder = find_base(reference, revision=revision, allow_download=allow_download)
    try:
        if (folder / FACTS_FILE).exists() and not (folder / "vae").is_dir():
            return _pixel_facts(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{reference!r} holds no base model: its files do not describe what `distillery "
            "pretrain` writes"
        ) from error
    pipeline = pipeline_facts(folder, reference)
    published = PUBLISHED_BASES.get(reference)
    return BaseFacts(
        kind="latent", folder=folder, image_size=pipeline.image_size, channels=None,
        num_rows=pipeline.num_rows, id2label=pipeline.id2label, revision=commit_of(folder),
        licence=published.licence if published else pipeline.licence,
    )  # fmt: skip


def _pixel_facts(folder: Path) -> BaseFacts:
    """Return what is said of a base that `distillery pretrain` wrote."""
    transformer = read_json(folder / "transformer" / "config.json")
    facts = read_json(folder / FACTS_FILE)
    return BaseFacts(
        kind="pixel", folder=folder, image_size=int(transformer["sample_size"]), revision=None,
        channels=int(transformer["in_channels"]),
        num_rows=int(transformer["num_embeds_ada_norm"]),
        id2label=dict(enumerate(facts["class_names"])), licence=facts.get("licence"),
    )  # fmt: skip


def describe_mapping(class_names: Sequence[str], mapping: ClassMapping) -> tuple[str, str]:
    """Return in a few words how many classes a base knows, and which rows they take."""
    places = list(zip(class_names, mapping.rows, mapping.origins, strict=True))
    known = [f"{name} is row {row}" for name, row, origin in places if origin == "known"]
    own = [f"{name} takes row {row}" for name, row, origin in places if origin == "own"]
    choice = f"{len(known)} of {len(places)} classes known to the base"
    if own:
        choice += f", {len(own)} take{'s' * (len(own) == 1)} unused rows"
    return choice, "; ".join(_some(names) for names in (known, own) if names)


def _some(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
