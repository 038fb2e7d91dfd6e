"""What is said before a job runs: decisions with reasons, licence, warnings, the estimate.

`run` and `estimate` both plan here, so that they say the same of the same request.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import clean, size_text, time_text
from app.settings import Settings
from distillery.errors import Cancelled, ConfigError
from distillery.files import read_json, write_json
from distillery.machine import probe, quick_imports
from distillery.wording import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from generator.estimate import Estimate
    from generator.planned import Plan

ASK_FROM_S = 600.0
"""Longer jobs are asked about, where there is a person to ask."""
ACCEPTED_FILE = "accepted-licences.json"


def check_early(asked: dict[str, Any], folder: Path) -> None:
    """Refuse what is plainly wrong with a new job before torch is imported, which takes seconds.

    A job that is in its folder already may go on without its dataset.

    Raises:
        ConfigError, DataError: What `make` would say of it.
    """
    from distillery.data.sources.resolve import check_reference
    from generator.config import from_dict

    if not folder.exists():
        check_reference(from_dict(asked).data)


def make(
    asked: dict[str, Any], settings: Settings, folder: Path | None = None
) -> tuple["Plan", "Estimate"]:
    """Return the plan of a request and what it will take on this machine.

    Raises:
        ConfigError, DataError, ModelError: What is wrong with the request.
    """
    with quick_imports():
        import generator.pipeline  # noqa: F401  (the estimate looks for complete stages)
        from generator.estimate import estimate
        from generator.plan import make_plan
        from generator.work import works_ahead

    machine = probe()
    plan = make_plan(asked, cache=settings.cache, machine=machine, models=settings.models)
    return plan, estimate(
        plan, machine, cache=settings.cache, folder=folder, works_ahead=works_ahead(plan.config)
    )


def show_plan(console: "Console", plan: "Plan") -> None:
    """Print what was decided for the user, and what to know."""
    config = plan.config
    _show(
        console, plan, "Distilling ", f" to {counted(config.images_per_class, 'image')} per class",
        f"seed {config.seed}",
        [*_decisions(plan), ("licence", *licence_text(plan))],
    )  # fmt: skip


def show_pretraining(console: "Console", plan: "Plan") -> None:
    """Print what a base is trained on, and what was decided of it."""
    rows = [row for row in _decisions(plan) if row[0] in ("image size", "mirroring")]
    seed = f"base seed {plan.config.base.pretrain.base_seed}"
    _show(console, plan, "Pretraining on ", "", seed, rows)


def _show(
    console: "Console", plan: "Plan", verb: str, target: str, seed: str,
    rows: Sequence[tuple[str, str, str]],
) -> None:  # fmt: skip
    """Print one line on the work and its images, what was decided, and what to know."""
    from rich.text import Text

    dataset = (clean(plan.config.data.dataset), "bold cyan")
    rest = f"{target}: {_images_text(plan)}, {seed}"
    console.print(Text.assemble((verb, "bold"), dataset, rest))
    console.print(_facts(rows))
    _notes(console, plan.warnings)


def _decisions(plan: "Plan") -> list[tuple[str, str, str]]:
    return [(decision.what, decision.choice, decision.reason) for decision in plan.decisions]


def _images_text(plan: "Plan") -> str:
    names = plan.look.class_names
    return f"{plan.look.num_images} images, {len(names)} classes ({class_text(names)})"


def class_text(names: Sequence[str]) -> str:
    """Return the first class names, which show a folder that was read otherwise than meant."""
    shown = [clean(name[:24]) for name in names[:3]]
    return ", ".join(shown) + ", ..." * (len(names) > 3)


def _facts(rows: Sequence[tuple[str, str, str]]) -> "Table":
    """Return (what, figure, explanation) rows as a grid."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=16)
    grid.add_column(overflow="fold")
    for what, choice, reason in rows:
        text = Text.assemble(
            (clean(choice), "bold"), (clean(f": {reason}" if reason else ""), "dim")
        )
        grid.add_row(f"  {what}", text)
    return grid


def show_warnings(console: "Console", estimate: "Estimate") -> None:
    """Print what does not fit this machine."""
    _notes(console, estimate.warnings)


def _notes(console: "Console", notes: Sequence[str]) -> None:
    """Print warnings, each in a block of its own."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    for note in notes:
        grid.add_row("  !", Text(clean(note), style="yellow"))
    if notes:
        console.print(grid)


def licence_text(plan: "Plan") -> tuple[str, str]:
    """Return the base model's licence, and what it means for the result."""
    if plan.licence:
        return plan.licence, "of the base model; the bundle inherits it"
    return "none attached", "by the base model; that of your images stays"


def show_estimate(console: "Console", estimate: "Estimate") -> None:
    """Print the estimate as a table with the basis of each figure."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="Estimate", title_justify="left", title_style="bold")
    table.add_column("stage")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("range", justify="right", no_wrap=True)
    table.add_column("basis", overflow="fold")
    for stage in estimate.stages:
        spread = "" if stage.high_s < 0.05 else _range(stage.low_s, stage.high_s)
        table.add_row(stage.name, time_text(stage.seconds), spread, stage.basis)
    table.add_section()
    table.add_row(
        "together", time_text(estimate.seconds), _range(estimate.low_s, estimate.high_s), "",
        style="bold",
    )  # fmt: skip
    console.print(table)
    console.print(_facts(resource_rows(estimate)))


def _range(low_s: float, high_s: float) -> str:
    return f"{time_text(low_s)} - {time_text(high_s)}"


def resource_rows(estimate: "Estimate") -> list[tuple[str, str, str]]:
    """Return memory, disk and download with their basis."""
    rows = [
        ("memory", f"about {size_text(estimate.memory_bytes)}", estimate.memory_basis),
        ("disk", f"about {size_text(estimate.disk_bytes)}", estimate.disk_basis),
    ]
    if estimate.download_bytes:
        rows.append(("download", f"about {size_text(estimate.download_bytes)}", "weights"))
    return rows


def show_brief(console: "Console", estimate: "Estimate", folder: Path) -> None:
    """Print the estimate in a few lines, for the start of a run."""
    longest = sorted(estimate.stages, key=lambda stage: -stage.seconds)[:3]
    parts = ", ".join(f"{s.name} {time_text(s.seconds)}" for s in longest if s.seconds >= 0.5)
    spread = _range(estimate.low_s, estimate.high_s)
    sizes = f"memory {size_text(estimate.memory_bytes)}, disk {size_text(estimate.disk_bytes)}"
    rows = [
        (
            "time",
            f"about {time_text(estimate.seconds)}",
            f"{spread}; most of it {parts or 'small'}",
        ),
        ("needs", sizes, ""),
        ("folder", str(folder), ""),
    ]
    console.print(_facts(rows))


def plan_event(plan: "Plan", estimate: "Estimate") -> dict[str, Any]:
    """Return what `--json` tells of a plan and its estimate."""
    from dataclasses import asdict

    from generator.config import to_dict

    return {
        "decisions": [asdict(decision) for decision in plan.decisions],
        "warnings": list(plan.warnings),
        "licence": plan.licence,
        "num_images": plan.look.num_images,
        "num_classes": len(plan.look.class_names),
        "class_names": list(plan.look.class_names),
        "estimate": estimate.as_dict(),
        "config": to_dict(plan.config),
    }


def confirm(plan: "Plan", estimate: "Estimate", settings: Settings, *, yes: bool) -> None:
    """Ask about long jobs and non-commercial licences, once for each licence.

    Raises:
        ConfigError: If a licence must be accepted and nobody is there to ask.
        Cancelled: If the answer is no.
    """
    import typer

    can_ask = sys.stdin.isatty() and sys.stderr.isatty()
    if _must_accept(plan, settings):
        if not yes and not can_ask:
            raise ConfigError(
                f"the licence of {plan.config.base.reference}, {plan.licence}, forbids commercial "
                "use, and the bundle inherits it: accept it with --yes, or choose --base pixel"
            )
        question = f"The licence {plan.licence} forbids commercial use. Accept it?"
        if not yes and not typer.confirm(question, err=True):
            raise Cancelled("not started")
        _accept(plan, settings)
    if estimate.seconds > ASK_FROM_S and can_ask and not yes:
        question = f"This takes about {time_text(estimate.seconds)}. Start?"
        if not typer.confirm(question, default=True, err=True):
            raise Cancelled("not started")


def _must_accept(plan: "Plan", settings: Settings) -> bool:
    """Say whether the base is non-commercial and its licence was not accepted before."""
    from distillery.models.config import forbids_commercial_use

    reference = plan.config.base.reference
    return forbids_commercial_use(reference, plan.licence) and reference not in _accepted(settings)


def _accepted(settings: Settings) -> list[str]:
    """Return the bases whose licence was accepted on this machine."""
    try:
        return list(read_json(settings.cache / ACCEPTED_FILE))
    except (OSError, ValueError):
        return []


def _accept(plan: "Plan", settings: Settings) -> None:
    """Remember that the licence was accepted."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    known = sorted({*_accepted(settings), plan.config.base.reference})
    write_json(settings.cache / ACCEPTED_FILE, known)
