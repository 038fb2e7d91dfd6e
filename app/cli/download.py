"""`distillery download`: the result of a service's job on this disk, verified.

Interrupted at any moment, the same command goes on where it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import clean, err
from app.cli.display import write_event
from app.cli.remote import connect
from app.settings import Settings, read_settings
from distillery.errors import BundleError, ServiceError
from distillery.files import expand_user
from distillery.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from distillery.client.jobs import Job

BESIDE = ("previews/", "job.log")
"""Files of a job that are no part of its bundle."""


def download_verb(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of a succeeded job.")],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where to put it. Default: a folder named as the job."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Report, preview, card and Parquet too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Bring the bundle of a job here and check it to its last byte.

    Repeated after an interruption, it goes on where it was. Files appear under their names only
    when they are whole. Prints where the bundle lies.

    Example: distillery download job_01k9... out
    """
    from distillery.bundle.read import read_bundle
    from distillery.client.jobs import BUNDLE_NAME

    settings = read_settings()
    target = expand_user(folder or Path(job))
    with connect(settings) as client:
        found = client.jobs.get(job)
        if found.status != "succeeded":
            reason = found.reason() if found.is_finished else f"it is {found.status}: wait for it"
            raise ServiceError(f"job {found.id} has no bundle: {reason}", code="job_failed")
        with _bar(settings, quiet=as_json) as on_progress:
            for name in _bundle_files(found) if whole else ():
                client.jobs.download_file(found.id, name, target / name, on_progress=on_progress)
            path = client.jobs.download(found.id, target / BUNDLE_NAME, on_progress=on_progress)
    data = read_bundle(path)
    if whole:
        _check_folder(target)
    if as_json:
        write_event("download", {"path": str(path), "content_digest": data.content_digest})
        return
    err(settings).print(f"verified: {data!r}", soft_wrap=True)
    typer.echo(clean(path))


def _bundle_files(job: "Job") -> list[str]:
    """Return the names of the files of the bundle folder."""
    names = [str(file["path"]) for file in job._jobs.files(job.id)]
    own = [name for name in names if not name.startswith(BESIDE)]
    for name in own:
        parts = name.split("/")
        if "\\" in name or "" in parts or ".." in parts or "." in parts:
            raise ServiceError(f"{clean(name)!r}, which the service names, is no name of a file")
    return own


def _check_folder(folder: Path) -> None:
    """Check every file of the folder against its own list of digests."""
    from distillery.bundle.folder import verify_folder

    findings = verify_folder(folder)
    if findings:
        raise BundleError(f"{folder} is not a whole bundle: {'; '.join(findings[:3])}")


@contextmanager
def _bar(settings: Settings, *, quiet: bool) -> Iterator[OnProgress]:
    """Show a bar for each file while it comes, on a terminal only."""
    console = err(settings)
    if quiet or not console.is_terminal:
        yield ignore_progress
        return
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns: list[Any] = [BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda progress: bars.update(task, completed=progress.step, total=progress.total)
