"""`distillery run`: plan, run or continue a job, show what came out."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import planning
from app.cli.console import clean, err, out
from app.cli.display import write_event
from app.cli.failures import ERROR_LOG
from app.cli.local import start_local
from app.cli.options import RequestOptions, default_folder, request_of, with_request
from app.cli.results import result_event, show_result
from app.cli.running import crashes_logged, json_errors, with_display
from app.settings import Settings, read_settings
from distillery.errors import JobError
from distillery.files import expand_user, read_json, write_json
from distillery.machine import quick_imports

if TYPE_CHECKING:
    from generator.ahead import Ahead

ESTIMATE_FILE = "estimate.json"
"""Expected seconds of each stage, for the bars of a continued job."""


def verb(
    request: RequestOptions,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the job. Default: runs/DATASET-ipcN-seedS below the current folder.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout, and nothing else.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before long jobs; accept licences.")
    ] = False,
) -> None:
    """Distil a dataset to a few images per class.

    Prepares the images, trains or takes a diffusion transformer, fine-tunes it to be
    representative and diverse, samples candidates, chooses the best, refines them beside real
    images and keeps what validation prefers (refine.start), judges it beside controls, and writes
    a bundle. A run that was stopped or killed goes on when the same command is repeated.

    Example: distillery run ~/photos --ipc 10
    """
    settings = read_settings()
    with json_errors(as_json):
        asked = request_of(request)
        folder = expand_user(out_folder) if out_folder else default_folder(asked)
        start_local()
        planning.check_early(asked, folder)
        from generator.ahead import Ahead  # its start comes before the imports that take long

        with crashes_logged([folder, settings.cache]), Ahead(asked, folder) as ahead:
            _run(asked, folder, settings, ahead, as_json=as_json, yes=yes)


run_verb = with_request(verb)


def _run(
    asked: dict[str, Any], folder: Path, settings: Settings, ahead: "Ahead", *, as_json: bool,
    yes: bool,
) -> None:  # fmt: skip
    """Plan and start a job, or take up the one in the folder; show the result."""
    with quick_imports():
        from generator.pipeline import stored_job

    job = stored_job(folder, asked, may_replace=True)
    expected_s = _stored_estimate(folder)
    bundle, is_done = folder / "bundle", False
    if job is None:
        job, expected_s = _start(asked, folder, settings, as_json=as_json, yes=yes)
    else:
        is_done, state = _standing(folder, job, settings)
        if not as_json:
            err(settings).print(f"The job in {clean(folder)} {state}.", soft_wrap=True)
    if not is_done:
        ahead.give(job, cache=settings.cache)
        _work(job, folder, expected_s, settings, as_json=as_json)
        (folder / ERROR_LOG).unlink(missing_ok=True)  # of an earlier try
    report = read_json(bundle / "report.json")
    if as_json:
        write_event("result", result_event(bundle, report))
    else:
        show_result(out(settings), bundle, report)


def _standing(folder: Path, job: Mapping[str, Any], settings: Settings) -> tuple[bool, str]:
    """Return whether a job can be shown without work, and where it stands in words."""
    from generator.standing import standing_of

    if not (folder / "bundle").exists():
        return False, "goes on"
    standing = standing_of(folder, job, cache=settings.cache)
    if not standing.is_whole:
        return False, "is complete, but its bundle lacks files: it is put together again"
    if standing.images_changed:
        return True, (
            "is complete, but its images are gone or have changed since: what follows is of the "
            "old ones, and a new folder (--out) distils those that are there now"
        )
    if standing.missing:
        gone = ", ".join(standing.missing)
        return False, f"is complete, but the cache has lost {gone}: they are made again"
    return True, "is complete"


def _start(
    asked: dict[str, Any], folder: Path, settings: Settings, *, as_json: bool, yes: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Plan a new job, say so, and write its folder; returns it and the expected seconds."""
    from generator.pipeline import start_job

    plan, estimate = planning.make(asked, settings, folder)
    if as_json:
        write_event("plan", {"folder": str(folder)} | planning.plan_event(plan, estimate))
    else:
        console = err(settings)
        planning.show_plan(console, plan)
        planning.show_brief(console, estimate, folder)
        planning.show_warnings(console, estimate)
    planning.confirm(plan, estimate, settings, yes=yes)
    _check_disk(folder, settings, estimate.disk_bytes)
    job = start_job(folder, asked, plan)
    expected_s = {stage.name: round(stage.seconds, 3) for stage in estimate.stages}
    write_json(folder / ESTIMATE_FILE, expected_s)
    return job, expected_s


def _stored_estimate(folder: Path) -> dict[str, float]:
    """Return the expected seconds that a job's start left."""
    try:
        return dict(read_json(folder / ESTIMATE_FILE))
    except (OSError, ValueError):
        return {}


def _check_disk(folder: Path, settings: Settings, needed_bytes: float) -> None:
    """Refuse to start what cannot fit; a disk that fills up under a mapped file kills a process."""
    for place in (folder, settings.cache):
        existing = next(
            path for path in (place.absolute(), *place.absolute().parents) if path.exists()
        )
        free = shutil.disk_usage(existing).free
        if free < needed_bytes:
            raise JobError(
                f"the job needs about {needed_bytes / 1e9:.2g} GB of disk, but {existing} has "
                f"{free / 1e9:.2g} GB free: free some, or name other places with --out and "
                "DISTILLERY_CACHE"
            )


def _work(
    job: Mapping[str, Any], folder: Path, expected_s: Mapping[str, float], settings: Settings, *,
    as_json: bool,
) -> None:  # fmt: skip
    """Run what is left of a job under a display, until the end or a signal."""
    from generator.pipeline import STAGES, run_job

    names = [stage.name for stage in STAGES]
    with with_display(names, expected_s, settings, as_json=as_json) as show:
        run_job(
            folder, job, cache=settings.cache, on_progress=show.on_progress, on_stage=show.on_stage
        )
