"""The end of a job: how good the result is, what each stage gained, and where the files are.

Everything comes from the bundle folder, so that a finished job is shown again without its stages.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import clean
from distillery.files import read_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = (
    ("accuracy", "accuracy"), ("worst group", "cluster_min"), ("noise", "noise"), ("blur", "blur"),
    ("inverted", "invert"),
)  # fmt: skip
"""(heading, figure of a row) of the table of results."""
NARROW_COLUMNS = 2
"""How many of them have their spread beside them; the others are means."""
FILES = (
    ("bundle", "distilled.safetensors"), ("preview", "preview.png"), ("report", "report.html"),
)  # fmt: skip


def figure(value: dict[str, Any] | None, *, spread: bool = True) -> str:
    """Return mean and spread of a figure in per cent."""
    if value is None:
        return "too few data"
    mean = f"{100 * value['mean']:.1f}"
    if not spread or len(value.get("runs", ())) < 2:
        return mean
    return f"{mean} ± {100 * value['std']:.1f}"


def result_event(bundle: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Return what `--json` tells of a finished job."""
    manifest = read_json(bundle / "manifest.json")
    return {
        "bundle": str(bundle),
        "files": {name: str(bundle / file) for name, file in FILES if (bundle / file).exists()},
        "content_digest": manifest["content_digest"],
        "results": report["results"],
        "stage_effects": report["stage_effects"],
        "fallback": report["fallback"],
        "warnings": report["warnings"],
    }


def show_result(console: "Console", bundle: Path, report: dict[str, Any]) -> None:
    """Print tables, gains and paths."""
    from rich.text import Text

    protocol, counts = report["protocol"], report["dataset"]["images_per_split"]
    students = protocol["num_seeds"]
    console.print(Text(clean(report["title"]), style="bold"))
    console.print(
        f"Students: {protocol['student']}, {protocol['epochs_or_steps']}, {students} for each set; "
        f"{counts['test']} test images; per cent, mean" + " ± std" * (students > 1)
    )
    console.print(result_table(report["results"]["hard"], "Trained on hard labels"))
    if report["results"]["soft"]:
        table = result_table(report["results"]["soft"], "Trained on the teacher's soft labels")
        console.print(table)
    if report["fallback"]:
        console.print(Text(f"Real images were refined: {report['fallback']['reason']}", "yellow"))
    if report["stage_effects"]:
        console.print(Text("What each stage gained", style="bold"))
        console.print(effect_table(report["stage_effects"]))
    console.print()
    show_paths(console, bundle)


def result_table(rows: list[dict[str, Any]], title: str) -> "Table":
    """Return rows of a report as a table with ours marked."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column("images", overflow="fold")
    present = [(head, key) for head, key in COLUMNS if any(key in row for row in rows)]
    for head, _ in present:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        figures = [
            figure(row.get(key), spread=number < NARROW_COLUMNS)
            for number, (_, key) in enumerate(present)
        ]
        mark = "▸ " if row["is_ours"] else "  "
        style = "bold green" if row["is_ours"] else None
        table.add_row(mark + clean(row["label"]), *figures, style=style)
    return table


def effect_table(effects: list[dict[str, Any]]) -> "Table":
    """Return what each stage gained, as the report puts it."""
    from rich.table import Table
    from rich.text import Text

    styles = {"it helps": "green", "it hurts": "red"}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold", ratio=1)
    grid.add_column(overflow="fold", ratio=1)
    for effect in effects:
        verdict = effect["verdict"]
        style = next((styles[end] for end in styles if verdict.endswith(end)), "")
        grid.add_row(f"  {effect['stage']}", Text(verdict, style=style))
    return grid


def show_paths(console: "Console", bundle: Path) -> None:
    """Print where the files are, and how the bundle is loaded."""
    from rich.text import Text

    for name, file in FILES:
        if (bundle / file).exists():
            line = Text.assemble((f"{name:8} ", "bold"), clean(bundle / file))
            console.print(line, soft_wrap=True)  # a path that wraps cannot be copied
    console.print()
    lines = (
        "import distillery",
        f"data = distillery.load({str(bundle / FILES[0][1])!r})",
        "train = data.torch()  # torch Dataset of (uint8 image, label)",
    )
    for line in lines:
        console.print(f"    {clean(line)}", style="cyan", soft_wrap=True)
