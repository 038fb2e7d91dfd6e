"""`distillery jobs compare`: where the settings and the results of two jobs differ."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import clean, out
from app.cli.remote import connect, print_json
from app.settings import read_settings

if TYPE_CHECKING:
    from distillery.client.client import Client


def compare_verb(
    a: Annotated[str, typer.Argument(metavar="JOB", help="Id of the first job.")],
    b: Annotated[str, typer.Argument(metavar="JOB", help="Id of the second one.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show where two jobs differ: settings, accuracy and worst group with their spreads.

    Of a job that is not finished only the settings are compared.

    Example: distillery jobs compare job_01k9... job_01ka...
    """
    from distillery.evaluation import compare

    settings = read_settings()
    with connect(settings) as client:
        records, reports = zip(*(_look(client, job_id) for job_id in (a, b)), strict=True)
    said = compare.notes(*reports)
    results = compare.report_diff(*reports)
    differing = compare.config_diff(*(record.get("config") for record in records))
    if as_json:
        ids = [record["id"] for record in records]
        print_json({"jobs": ids, "report": results, "config": differing, "notes": said})
        return
    console = out(settings)
    if results:
        console.print(_results(results))
    console.print(_settings(differing) if differing else "No setting differs.")
    for sentence in said:
        console.print(clean(sentence), soft_wrap=True)


def _look(client: "Client", job_id: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a job and its report, None where it has none."""
    record = dict(client.jobs.get(job_id).record)
    has_report = bool((record.get("urls") or {}).get("report"))
    return record, client.jobs.report(job_id) if has_report else None


def _results(rows: list[dict[str, Any]]) -> Any:
    """Return the figures of both as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from distillery.evaluation.compare import difference_text, figure_text
    from distillery.evaluation.report_view import mean_std

    table = Table("test accuracy, %", "A", "B", "B - A, points", box=box.SIMPLE_HEAD)
    for row in rows:
        cells = (figure_text(row), mean_std(row["a"]), mean_std(row["b"]), difference_text(row))
        table.add_row(*map(Text, cells))
    return table


def _settings(rows: list[dict[str, Any]]) -> Any:
    """Return the settings that differ as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from distillery.evaluation.compare import value_text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("setting", "A", "B"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = (row["key"], *("-" if row[s] is None else value_text(row[s]) for s in "ab"))
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table
