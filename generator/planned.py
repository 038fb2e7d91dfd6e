"""What a plan consists of: a configuration, the choices behind it, a first look at the data."""

from dataclasses import dataclass

from distillery.data.survey import Survey
from generator.config import DistillConfig


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice that the plan made for the user."""

    what: str
    choice: str
    reason: str


BAD_FILES_SEEN = "the report names every bad file"
"""End of the warning of files that a first look could not read; the report has their number."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a first look at the dataset shows."""

    survey: Survey
    class_names: tuple[str, ...]
    num_images: int
    num_train: int
    """Images of the train split, before corrupt ones are found."""
    smallest_class: int
    """Training images of the class that has the fewest."""
    notes: tuple[str, ...] = ()
    """What was left out or read in a way that could surprise, a sentence each."""
    fewest_train: tuple[str, int] | None = None
    """The class with the fewest training images once splits are drawn, and their number."""
    given_splits: frozenset[str] = frozenset()
    """Splits that the dataset brings along."""
    revision: str | None = None
    """Commit of a Hub dataset."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A complete configuration, how it came about, and what to say before it runs."""

    config: DistillConfig
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...]
    look: Look
    licence: str | None
