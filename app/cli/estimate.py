"""`distillery estimate`: what `run` with the same options would do and take; starts nothing."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli import planning
from app.cli.console import out
from app.cli.display import write_event
from app.cli.local import start_local
from app.cli.options import RequestOptions, default_folder, request_of, with_request
from app.settings import read_settings
from distillery.files import expand_user


def verb(
    request: RequestOptions,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the job, whose complete stages cost nothing."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what a run would decide, and what it would take.

    Time by stage with a range, memory, disk, download and licence, and the basis of each figure.
    Small networks are timed for about a second; nothing is written.

    Example: distillery estimate ~/photos --ipc 10
    """
    settings, asked = read_settings(), request_of(request)
    start_local()
    folder = expand_user(out_folder) if out_folder else default_folder(asked)
    planning.check_early(asked, folder)
    plan, estimate = planning.make(asked, settings, folder)
    if as_json:
        write_event("estimate", planning.plan_event(plan, estimate))
        return
    console = out(settings)
    planning.show_plan(console, plan)
    planning.show_estimate(console, estimate)
    planning.show_warnings(console, estimate)


estimate_verb = with_request(verb)
