"""The end of a job: how good the result is, what each stage gained, and where the files are.

Everything comes from the bundle folder, so that a finished job is shown again without its stages.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import clean
from distillery.evaluation.report_view import start_notice
from distillery.files import read_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = (
    ("accuracy", "accuracy"), ("worst\ngroup", "cluster_min"), ("noise", "noise"),
    ("blur", "blur"), ("invert", "invert"),
)  # fmt: skip
"""(heading, figure of a row) of the table of results."""
WITH_SPREAD = ("accuracy", "cluster_min")
"""Figures that have their spread beside them; the others are means."""
LABEL_WIDTH = 33
"""Of the longest name of a set, so that both tables line up."""
FILES = (
    ("bundle", "distilled.safetensors"), ("preview", "preview.png"), ("report", "report.html"),
)  # fmt: skip


def figure(value: dict[str, Any] | None, *, spread: bool = True) -> str:
    """Return mean and spread of a figure in per cent."""
    if value is None:
        return "-"
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
        "start": report.get("start"),
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
    if protocol.get("name", "distillery") != "distillery":
        console.print(Text(clean(f"Protocol {protocol['name']}: {protocol['notes']}"), "dim"))
    console.print()
    if report["results"]["hard"]:
        show_table(console, report["results"]["hard"], "Trained on hard labels")
    if report["results"]["soft"]:
        console.print()
        show_table(console, report["results"]["soft"], "Trained on soft labels")
    if report["fallback"]:
        console.print(Text(f"Not what was asked for: {report['fallback']['reason']}", "yellow"))
    if notice := start_notice(report):
        console.print(Text(clean(f"Real images were kept: {notice}"), "yellow"))
    for text in report["warnings"]:
        console.print(Text(f"  ! {clean(text)}", "yellow"))
    if report["stage_effects"]:
        console.print()
        show_effects(console, report["stage_effects"])
    console.print()
    show_paths(console, bundle)


def show_table(console: "Console", rows: list[dict[str, Any]], title: str) -> None:
    """Print a table of results, and which figure the test split was too small for."""
    console.print(result_table(rows, title))
    # the groups are those of the test split: a figure is there for every row, or for none
    if any("cluster_min" in row and row["cluster_min"] is None for row in rows):
        console.print("  worst group: not enough data, no group has test images enough")


def result_table(rows: list[dict[str, Any]], title: str) -> "Table":
    """Return rows of a report as a table with ours marked; it fits 80 columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(f"\n  {title}", width=LABEL_WIDTH + 2, overflow="fold")
    present = [(head, key) for head, key in COLUMNS if any(row.get(key) for row in rows)]
    for head, _ in present:
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    for row in rows:
        figures = [figure(row.get(key), spread=key in WITH_SPREAD) for _, key in present]
        style = "bold green" if row["is_ours"] else ""
        mark = "▸ " if row["is_ours"] else "  "
        table.add_row(Text(mark + clean(row["label"])), *figures, style=style)
    return table


def show_effects(console: "Console", effects: list[dict[str, Any]]) -> None:
    """Print what each stage gained, with the report's verdict."""
    from rich.table import Table
    from rich.text import Text

    verdicts = [effect["verdict"].rpartition(": ")[2] for effect in effects]
    is_one = len(set(verdicts)) == 1  # said once then
    heading = "Gain of each stage, points" + f" ({verdicts[0]})" * is_one
    console.print(Text(heading, style="dim"))
    styles = {"it helps": "green", "it hurts": "red"}
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for effect, verdict in zip(effects, verdicts, strict=True):
        error = f" ± {100 * effect['standard_error']:.1f}" * (not is_one)
        what = clean(effect["stage"]) + f": {verdict}" * (not is_one)
        grid.add_row(f"  {100 * effect['gain']:+.1f}{error}", Text(what, styles.get(verdict, "")))
    console.print(grid)


def show_paths(console: "Console", bundle: Path) -> None:
    """Print where the files are, and how the bundle is loaded."""
    from rich.text import Text

    for name, file in FILES:
        if (bundle / file).exists():
            place = Text.assemble((f"{name:8} ", "bold"), clean(bundle / file))
            console.print(place, soft_wrap=True)  # a path that wraps cannot be copied
    console.print()
    lines = (
        "import distillery",
        f"data = distillery.load({str(bundle / FILES[0][1])!r})",
        "train = data.torch()  # torch Dataset of (uint8 image, label)",
    )
    for line in lines:
        console.print(f"    {clean(line)}", style="cyan", soft_wrap=True)
