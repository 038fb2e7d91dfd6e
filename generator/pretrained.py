"""A pretrained DiT pipeline for a job that names none: which of those that are here, and why.

The best known comes first: most of the user's classes, then the published one, then by name. Taken
is the first that the machine has room and time for; what is not here is fetched only where the user
allowed it, and then after those that know some class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillery.errors import ModelError
from distillery.machine import Machine
from distillery.models.class_rows import IMAGENET_CLASSES, map_classes
from distillery.models.config import PUBLISHED_BASES
from distillery.models.hub import hub_cache
from distillery.models.shelf import (
    LocalPipeline,
    PipelineFacts,
    check_whole,
    local_pipelines,
    pipeline_facts,
)
from generator.base_choice import BaseChoice, Resolve, named_base
from generator.config import DistillConfig
from generator.planned import Look
from generator.room import why_no_room
from generator.work import SD_VAE, BaseDescription

PUBLISHED = "facebook/DiT-XL-2-256"
SMALLEST_FOR_LATENT = 64
"""Images below this size gain nothing from a latent base, and bases below it are toys."""
SHOWN = 3
"""Pipelines that a reason names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The pipeline to take, or why there is none."""

    choice: BaseChoice | None
    why_none: str = ""
    notes: tuple[str, ...] = ()
    """Where there is none: the pipelines that are broken, a sentence each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A pipeline that a job could take."""

    reference: str
    name: str
    revision: str | None
    facts: PipelineFacts
    num_known: int
    """Of the user's classes, those that it was trained on."""
    is_here: bool
    """Off: it may be fetched."""

    @property
    def place(self) -> tuple[int, bool, bool, str, str]:
        """Return what candidates are sorted by."""
        is_other = self.reference != PUBLISHED
        return (-self.num_known, not self.is_here, is_other, self.name, self.reference)


def needs_pretrained(look: Look) -> bool:
    """Say whether the images are large enough to gain from a pretrained base.

    This is the one rule: below it the small pixel DiT is taken, whatever pipelines are here.
    """
    return look.survey.native_size >= SMALLEST_FOR_LATENT


def find_pretrained(
    asked: DistillConfig, look: Look, *, machine: Machine, models: Path | None, resolve: Resolve
) -> Found:
    """Return the first pipeline that fits the machine.

    Args:
        asked: The request.
        look: First look at the images.
        machine: Where the job will run.
        models: Folder of pipelines beside the Hub's cache.
        resolve: Tells the configuration that a job with a base would have.
    """
    candidates, notes = _candidates(asked, look, models)
    passed: list[str] = []
    for candidate in candidates:
        why = _why_not(candidate, asked, look, machine, resolve)
        if why is not None:
            passed.append(f"{candidate.name} {why}")
            continue
        try:
            choice = named_base(
                asked, candidate.reference, revision=candidate.revision,
                allow_download=asked.base.allow_download and not candidate.is_here,
            )  # fmt: skip
        except ModelError as error:  # the Hub did not answer, or .bin weights are broken
            notes += (f"{candidate.name} is passed over: {error}",)
            continue
        reason = _reason(candidate, look, len(candidates), passed)
        return Found(choice=replace(choice, reason=reason, warnings=(*notes, *choice.warnings)))
    return Found(
        choice=None, why_none=_why_none(asked, look, machine, resolve, passed), notes=notes
    )


def _candidates(
    asked: DistillConfig, look: Look, models: Path | None
) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return the pipelines that may be taken, best first, and a note on each that is broken."""
    found, notes = [], []
    for pipeline in local_pipelines(hub_cache(), models):
        if asked.base.revision not in (None, pipeline.revision):
            continue
        try:
            found.append(_local(pipeline, look))
        except (ModelError, OSError) as error:
            text = str(error).replace(str(pipeline.folder), pipeline.name)
            notes.append(f"the DiT pipeline {pipeline.name} that is here is passed over: {text}")
    is_here = any(candidate.reference == PUBLISHED for candidate in found)
    if (asked.base.allow_download or asked.base.revision) and not is_here:
        found.append(_published(asked))
    return sorted(found, key=lambda candidate: candidate.place), tuple(notes)


def _local(pipeline: LocalPipeline, look: Look) -> Candidate:
    """Return a pipeline that is here, with the number of classes that it knows.

    Raises:
        ModelError: If it is broken.
    """
    facts = pipeline_facts(pipeline.folder, pipeline.name)
    check_whole(pipeline.folder)
    try:
        mapping = map_classes(look.class_names, facts.id2label, facts.num_rows)
        num_known = mapping.origins.count("known")
    except ModelError:  # too few rows, which `_why_not` says
        num_known = 0
    return Candidate(
        reference=pipeline.reference, name=pipeline.name, revision=pipeline.revision, facts=facts,
        num_known=num_known, is_here=True,
    )  # fmt: skip


def _published(asked: DistillConfig) -> Candidate:
    """Return the published base that may be fetched; which classes it knows is seen then."""
    base = PUBLISHED_BASES[PUBLISHED]
    facts = PipelineFacts(
        image_size=base.image_size, num_rows=IMAGENET_CLASSES, id2label={}, licence=base.licence,
        transformer=base.transformer, vae=SD_VAE,
    )  # fmt: skip
    return Candidate(
        reference=PUBLISHED, name=PUBLISHED, revision=asked.base.revision, facts=facts,
        num_known=0, is_here=False,
    )  # fmt: skip


def _why_not(
    candidate: Candidate, asked: DistillConfig, look: Look, machine: Machine, resolve: Resolve
) -> str | None:
    """Return what keeps a job from a pipeline, as the rest of a sentence; None: nothing."""
    facts, num_classes = candidate.facts, len(look.class_names)
    if facts.num_rows < num_classes:
        return f"has rows for {facts.num_rows} classes, not {num_classes}"
    if asked.image_size not in (None, facts.image_size):
        return f"makes images of {facts.image_size} px, not {asked.image_size}"
    if facts.image_size < SMALLEST_FOR_LATENT:
        return f"makes images of only {facts.image_size} px"
    choice = BaseChoice(
        kind="latent", reference=candidate.reference, name=candidate.name, reason="",
        image_size=facts.image_size, size_reason="",
    )  # fmt: skip
    base = BaseDescription(
        kind="latent", transformer=facts.transformer, vae=facts.vae, is_here=candidate.is_here
    )  # fmt: skip
    return why_no_room(resolve(choice), look, base, machine)


def _reason(candidate: Candidate, look: Look, count: int, passed: Sequence[str]) -> str:
    """Return why this pipeline was taken."""
    known = f"knows {candidate.num_known} of {len(look.class_names)} classes"
    place = f"it is here, {known}," if candidate.is_here else "it may be fetched"
    first = ", more than or as many as the others here" if count > 1 and not passed else ""
    reason = f"images of {look.survey.native_size} px; {place} and the machine has room for it"
    return reason + first + "".join(f"; {text}" for text in passed[:SHOWN])


def _why_none(
    asked: DistillConfig, look: Look, machine: Machine, resolve: Resolve, passed: Sequence[str]
) -> str:
    """Return why no pipeline was taken."""
    if passed:
        return "; ".join(passed[:SHOWN])
    why = _why_not(_published(asked), asked, look, machine, resolve)
    if why is not None:
        return f"no DiT pipeline is here, and {PUBLISHED} {why}"
    return f"no DiT pipeline is here (--download allows to fetch {PUBLISHED})"
