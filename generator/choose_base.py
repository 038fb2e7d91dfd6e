"""Which diffusion transformer a job uses when the user leaves it open, and why.

In this order: a base already trained on the same data; a DiT pipeline that is here (or may be
fetched) and fits the machine, for images that need one; a small pixel DiT pretrained at 8-32 px.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError, ModelError
from distillery.machine import Machine
from distillery.models.config import PUBLISHED_BASES, nearest_multiple
from finetune.config import BaseKind
from generator.bases import base_facts
from generator.config import DistillConfig
from generator.entries import RECORD, record_of
from generator.public_names import public_name
from generator.stage import Finished, stage_key

PUBLISHED = "facebook/DiT-XL-2-256"
SMALLEST_FOR_LATENT = 64
"""Images below this size gain nothing from a 256 px base."""
ASKED_FOR = ".asked-for"
"""In the folder of a base that `pretrain` was asked for, which runs take however short it was."""
LARGEST_PIXEL_SIZE = 64
"""A pixel DiT beyond this size is trained against advice."""
LATENT_GPU_BYTES = 12 * 2**30
"""What fine-tuning DiT-XL/2 with DiffFit at batch 8 needs on a GPU, with some room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseChoice:
    """The base of a job."""

    kind: BaseKind
    reference: str
    """`pixel`, a folder, or a Hub id."""
    name: str
    """For a person."""
    reason: str
    image_size: int
    size_reason: str
    channels: int | None = None
    """Channels that it takes; None: gray and colour."""
    num_rows: int | None = None
    """Classes that its label tables have rows for; None: as many as the dataset has."""
    id2label: Mapping[int, str] = field(default_factory=dict)
    """Names of those rows, as far as known."""
    revision: str | None = None
    licence: str | None = None
    warnings: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    """Configuration that comes with the base, such as how a cached one was pretrained."""


Resolve = Callable[[BaseChoice], DistillConfig]
"""The complete configuration that a job with this base would have."""


def choose_base(
    asked: DistillConfig, survey: Any, *, machine: Machine, cache: Path, resolve: Resolve
) -> BaseChoice:
    """Return the base for a request.

    Args:
        asked: The request, with defaults where nothing was said.
        survey: First look at the images, for their size.
        machine: Where the job will run.
        cache: Folder of shared stages.
        resolve: Tells whether a base in the cache is the one that the job would use.

    Raises:
        ModelError: If a named base is not there.
    """
    reference = asked.base.reference
    size = asked.image_size or pixel_size(survey.native_size)
    if reference not in ("auto", "pixel"):
        return _named(asked, reference)
    if reference == "auto":
        cached = _cached(asked, survey, size, cache, resolve)
        if cached is not None:
            return cached
        published = _published(asked, survey, machine)
        if published is not None:
            return published
    warnings: tuple[str, ...] = ()
    if survey.native_size >= SMALLEST_FOR_LATENT and not survey.gray:
        warnings = (
            f"a pixel DiT of {size} px seldom learns photographs: its samples may fail the "
            "fidelity check, and the run then refines real images; name a pretrained DiT "
            f"pipeline with --base (for example --base {PUBLISHED} --download) for more",
        )
    if size > LARGEST_PIXEL_SIZE:
        warnings += (
            f"training a pixel DiT of {size} px takes hours to days: leave --image-size open, or "
            "name a DiT pipeline with --base",
        )
    reason = (
        "asked for"
        if reference == "pixel"
        else (
            "no base trained on these images is in the cache, and "
            + _why_not_published(survey, machine)
        )
    )
    return BaseChoice(
        kind="pixel", reference="pixel", name=f"small pixel DiT, pretrained here at {size} px",
        reason=reason, image_size=size, warnings=warnings,
        size_reason="a pixel DiT is trained at 8 to 32 px",
    )  # fmt: skip


def pixel_size(native_size: int) -> int:
    """Return the size that a pixel DiT is trained at: the images' own, between 8 and 32 px."""
    size = min(max(native_size, 8), 32)
    return nearest_multiple(size, 2 if size <= 16 else 4)


def _named(asked: DistillConfig, reference: str) -> BaseChoice:
    """Return the base that the user named.

    Raises:
        ConfigError: If images of another size or kind were asked for than it makes.
        ModelError: If it is not there.
    """
    facts = base_facts(
        reference, revision=asked.base.revision, allow_download=asked.base.allow_download
    )
    if asked.image_size not in (None, facts.image_size):
        raise ConfigError(
            f"{reference} makes images of {facts.image_size} px, but {asked.image_size} px were "
            "asked for: leave the image size open, or name another base"
        )
    if facts.channels and asked.channels not in (None, facts.channels):
        raise ConfigError(
            f"{reference} makes images of {facts.channels} channels, but {asked.channels} were "
            "asked for: leave the channels open, or name another base"
        )
    warnings: tuple[str, ...] = ()
    if reference in PUBLISHED_BASES and PUBLISHED_BASES[reference].non_commercial:
        warnings = (f"{reference} may not be used commercially ({facts.licence})",)
    return BaseChoice(
        kind=facts.kind, reference=reference, name=public_name(reference), reason="asked for",
        image_size=facts.image_size, size_reason="what the base makes", channels=facts.channels,
        num_rows=facts.num_rows, id2label=facts.id2label, licence=facts.licence,
        revision=facts.revision, warnings=warnings,
    )  # fmt: skip


def _cached(
    asked: DistillConfig, survey: Any, size: int, cache: Path, resolve: Resolve
) -> BaseChoice | None:
    """Return the longest-trained base of the same prepared data, if one is in the cache."""
    if not any(cache.glob(f"base-*/{RECORD}")):
        return None
    # here, because they need torch: without a cached base a plan is made without it
    from generator.stages.base import STAGE as BASE
    from generator.stages.prepare import STAGE as PREPARE

    channels = asked.channels or (1 if survey.gray else 3)
    key = stage_key(PREPARE, replace(asked, image_size=size, channels=channels), {})
    place = cache / f"prepare-{key[:16]}"
    record = record_of(place)
    if record is None:
        return None
    prepared = Finished(PREPARE.name, place, record, True)
    own = [
        base["pretrain"]
        for path in cache.glob(f"base-*/{RECORD}")
        if (found := record_of(path.parent)) is not None
        and (base := found["settings"]["base"])["reference"] == "pixel"
        and base["pretrain"]["base_seed"] == asked.base.pretrain.base_seed
        and (asked.preset == "smoke" or _is_for_full_jobs(base["pretrain"], path.parent))
    ]
    for pretrain in sorted(own, key=lambda values: -values["num_steps"]):
        choice = BaseChoice(
            kind="pixel", reference="pixel", name=f"small pixel DiT at {size} px, from the cache",
            reason=f"it was trained on the same images ({pretrain['num_steps']} steps)",
            image_size=size, size_reason="what the cached base was trained at",
            values={"base": {"pretrain": pretrain}},
        )  # fmt: skip
        # the same data, and also threads, device, mirroring: all that its key holds
        key = stage_key(BASE, resolve(choice), {PREPARE.name: prepared})
        if (cache / f"{BASE.name}-{key[:16]}" / RECORD).exists():
            return choice
    return None


def _is_for_full_jobs(pretrain: Mapping[str, Any], folder: Path) -> bool:
    """Say whether a cached base is more than what a smoke run left behind."""
    return pretrain["num_steps"] >= 500 or (folder / ASKED_FOR).exists()


def _published(asked: DistillConfig, survey: Any, machine: Machine) -> BaseChoice | None:
    """Return the published DiT where the images need it, the machine fits it and it is here."""
    if survey.native_size < SMALLEST_FOR_LATENT or machine.gpu_memory_bytes < LATENT_GPU_BYTES:
        return None
    try:
        choice = _named(asked, PUBLISHED)
    except ModelError:  # not in the local Hub cache, and fetching was not allowed
        return None
    return replace(
        choice, reason=f"images of {survey.native_size} px, and {machine.gpu} has room for it"
    )


def _why_not_published(survey: Any, machine: Machine) -> str:
    """Return why the published DiT was not taken."""
    if survey.native_size < SMALLEST_FOR_LATENT:
        return f"images of {survey.native_size} px need no large one"
    if machine.gpu_memory_bytes < LATENT_GPU_BYTES:
        return "this machine has no GPU with room for a published one"
    return f"{PUBLISHED} is not here (allow it with --download)"
