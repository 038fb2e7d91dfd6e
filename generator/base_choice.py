"""The base of a job, with all that a plan says of it, and how one that has a name is looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distillery.errors import ConfigError
from distillery.models.config import forbids_commercial_use
from finetune.config import BaseKind
from generator.bases import base_facts
from generator.config import DistillConfig
from generator.public_names import public_name


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


def named_base(
    asked: DistillConfig, reference: str, *, revision: str | None, allow_download: bool
) -> BaseChoice:
    """Return the base of this name.

    Raises:
        ConfigError: If images of another size or kind were asked for than it makes.
        ModelError: If it is not there.
    """
    facts = base_facts(reference, revision=revision, allow_download=allow_download)
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
    if forbids_commercial_use(reference, facts.licence):
        name = public_name(reference)
        warnings = (f"{name} may not be used commercially ({facts.licence})",)
    return BaseChoice(
        kind=facts.kind, reference=reference, name=public_name(reference), reason="asked for",
        image_size=facts.image_size, size_reason="what the base makes", channels=facts.channels,
        num_rows=facts.num_rows, id2label=facts.id2label, licence=facts.licence,
        revision=facts.revision, warnings=warnings,
    )  # fmt: skip
