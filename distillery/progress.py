"""How long work tells what it is doing: one record per report, one callable that takes it.

Libraries call `on_progress`; the command line shows a bar, a worker stores it. The callable may
raise `Cancelled` (see `errors`): whoever reports must be at a point where stopping is safe.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one phase of the work stands."""

    phase: str
    """Name of the stage, for example `finetune`."""
    step: int
    """Units of work done, 0 to `total`."""
    total: int
    """Units of work in this phase."""
    message: str = ""
    """What is being done just now, for a person."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures of this step, such as losses."""


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Take a report and do nothing with it."""
