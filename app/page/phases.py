"""The phases of a job as the page tells them: a title and what happens in it, in order.

The names are those of `generator.pipeline`, which cannot be imported here: it brings torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PHASES: dict[str, tuple[str, str]] = {
    "plan": ("Plan", "looks at the data and decides what the request left open"),
    "prepare": ("Prepare images", "decodes, resizes and splits the images"),
    "base": ("Base model", "finds or trains the diffusion transformer"),
    "encode": ("Encode", "turns images into latents, once"),
    "finetune": ("Fine-tune", "teaches the base to be representative and diverse"),
    "generate": ("Sample", "draws candidates for every class"),
    "score": ("Score and select", "keeps the candidates that serve every group"),
    "refine": ("Refine", "improves the chosen images and real ones; validation decides"),
    "label": ("Soft labels", "asks a teacher what it sees in each image"),
    "evaluate": ("Evaluate", "trains students on the result and on its controls"),
    "bundle": ("Bundle", "writes the tensor file, the report and the card"),
}
"""Title and purpose of each phase, in the order in which they run."""

WORDS = {
    "pending": "to do", "running": "running", "succeeded": "done", "failed": "failed",
    "canceled": "canceled",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the stepper."""

    name: str
    title: str
    purpose: str
    status: str
    """`pending`, `running`, `succeeded`, `failed` or `canceled`."""
    word: str
    """The status in a word, for those who do not see the sign."""
    seconds: float | None
    summary: str
    was_cached: bool


def title_of(name: str | None) -> str:
    """Return the title of a phase; a name that is not known is its own title."""
    if not name:
        return ""
    return PHASES.get(name, (name.replace("_", " ").capitalize(), ""))[0]


def purpose_of(name: str) -> str:
    """Return what happens in a phase, nothing for a name that is not known."""
    return PHASES.get(name, ("", ""))[1]


def steps(phases: Sequence[Mapping[str, Any]], status: str, phase: str | None) -> list[Step]:
    """Return every phase of a job in order, with how it stands.

    Args:
        phases: Rows of the job's record, which may not name all phases yet.
        status: Of the job.
        phase: That the job is in.
    """
    known = {row["name"]: row for row in phases}
    names = [*PHASES, *(name for name in known if name not in PHASES)]
    return [_step(name, known.get(name, {}), status, phase) for name in names]


def _step(name: str, row: Mapping[str, Any], status: str, phase: str | None) -> Step:
    """Return one phase; the job's own phase runs even where its row does not say so yet."""
    state = row.get("status") or "pending"
    if state == "pending" and name == phase and status in ("running", "canceling"):
        state = "running"
    if state == "running" and status in ("failed", "canceled"):
        state = status  # what ended the job ended its phase
    return Step(
        name=name,
        title=title_of(name),
        purpose=purpose_of(name),
        status=state,
        word=WORDS.get(state, state),
        seconds=row.get("seconds"),
        summary=row.get("summary") or "",
        was_cached=bool(row.get("cached")),
    )
