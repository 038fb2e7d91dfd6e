"""Which diffusion transformer a job uses when the user leaves it open, and why.

In this order: a base already trained on the same data; for images of 64 px and more a DiT pipeline
that is here (or may be fetched) and fits the machine (`generator.pretrained`); a small pixel DiT
pretrained at 8-32 px.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillery.machine import Machine
from distillery.models.config import nearest_multiple
from generator.base_choice import BaseChoice, Resolve, named_base
from generator.config import DistillConfig
from generator.entries import RECORD, record_of
from generator.planned import Look
from generator.pretrained import PUBLISHED, find_pretrained, needs_pretrained
from generator.stage import Finished, stage_key

ASKED_FOR = ".asked-for"
"""In the folder of a base that `pretrain` was asked for, which runs take however short it was."""
LARGEST_PIXEL_SIZE = 64
"""A pixel DiT beyond this size is trained against advice."""


def choose_base(
    asked: DistillConfig, look: Look, *, machine: Machine, cache: Path, models: Path | None,
    resolve: Resolve,
) -> BaseChoice:  # fmt: skip
    """Return the base for a request.

    Args:
        asked: The request, with defaults where nothing was said.
        look: First look at the images.
        machine: Where the job will run.
        cache: Folder of shared stages.
        models: Folder of DiT pipelines that may be taken unasked, beside the Hub's cache.
        resolve: Tells the configuration that a job with a base would have.

    Raises:
        ModelError: If a named base is not there.
    """
    reference = asked.base.reference
    size = asked.image_size or pixel_size(look.survey.native_size)
    if reference == "pixel":
        return _pixel(look, size, "asked for")
    if reference != "auto":
        return named_base(
            asked, reference, revision=asked.base.revision,
            allow_download=asked.base.allow_download,
        )  # fmt: skip
    cached = _cached(asked, look.survey, size, cache, resolve)
    if cached is not None:
        return cached
    reason = f"images of {look.survey.native_size} px need no large one"
    notes: tuple[str, ...] = ()
    if needs_pretrained(look):
        found = find_pretrained(asked, look, machine=machine, models=models, resolve=resolve)
        if found.choice is not None:
            return found.choice
        reason, notes = found.why_none, found.notes
    pixel = _pixel(look, size, f"no base trained on these images is in the cache, and {reason}")
    return replace(pixel, warnings=(*notes, *pixel.warnings))


def _pixel(look: Look, size: int, reason: str) -> BaseChoice:
    """Return the small pixel DiT, with what it may fail at."""
    warnings: tuple[str, ...] = ()
    if needs_pretrained(look) and not look.survey.gray:
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
    return BaseChoice(
        kind="pixel", reference="pixel", name=f"small pixel DiT, pretrained here at {size} px",
        reason=reason, image_size=size, warnings=warnings,
        size_reason="a pixel DiT is trained at 8 to 32 px",
    )  # fmt: skip


def pixel_size(native_size: int) -> int:
    """Return the size that a pixel DiT is trained at: the images' own, between 8 and 32 px."""
    size = min(max(native_size, 8), 32)
    return nearest_multiple(size, 2 if size <= 16 else 4)


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
