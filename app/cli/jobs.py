"""`distillery jobs ...`: the jobs of a service, from a terminal or a script.

Ids and records go to stdout, everything for people to stderr.
"""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.compare import compare_verb
from app.cli.console import clean, err, out
from app.cli.options import RequestOptions, request_of, with_request
from app.cli.remote import (
    Follower,
    JobsArgument,
    connect,
    event_text,
    print_json,
    seconds_of,
)
from app.settings import read_settings
from distillery.errors import Cancelled, ConfigError

if TYPE_CHECKING:
    from distillery.client.client import Client
    from distillery.client.jobs import Job

ACTIVE = ("queued", "running", "canceling")
GONE_ON = "the job goes on: `distillery jobs wait` takes it up again"


def verb(
    request: RequestOptions,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    priority: Annotated[int | None, typer.Option(help="1 is first, 9 last. Default: 5.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Of a base that forbids commercial use.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole job on stdout.")] = False,
) -> None:
    """Put a job into the queue of a service; prints its id.

    Takes the options of run. The dataset is one that the service knows: a built-in, an upload, a
    folder mounted there, or a Hub id.

    Example: distillery jobs create digits --ipc 10
    """
    body = job_body(request_of(request))
    body |= {} if name is None else {"name": name}
    body |= {} if priority is None else {"priority": priority}
    body |= {"acknowledge_licence": True} if accept_licence else {}
    with connect(read_settings()) as client:
        job = client.jobs.create(**body)
    _print_job(job, as_json=as_json)


create_verb = with_request(verb)


def job_body(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request of the command line as the body of `POST /jobs`."""
    body = {key: dict(part) if isinstance(part, dict) else part for key, part in request.items()}
    data = body.pop("data", {})
    body["dataset"] = data.pop("dataset", "digits")
    data.pop("allow_download", None)  # whether the Hub is asked is the service's to say
    if "images_per_class" in body:
        body["ipc"] = body.pop("images_per_class")
    return body | ({"data": data} if data else {})


def ps_verb(
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="Finished jobs too, newest first.")
    ] = False,
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only jobs of this dataset.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """List the jobs of a service.

    Those that wait or run; with --all or --status others too.

    Example: distillery jobs ps --status failed
    """
    settings = read_settings()
    states: tuple[str | None, ...] = (status,) if status else (None,) if all_ else ACTIVE
    with connect(settings) as client:
        jobs = [
            job for state in states
            for job in client.jobs.list(status=state, dataset=dataset, limit=limit)
        ][:limit]  # fmt: skip
    if as_json:
        print_json([dict(job.record) for job in jobs])
    elif quiet:
        typer.echo("".join(f"{job.id}\n" for job in jobs), nl=False)
    else:
        out(settings).print(_table(jobs))


def _table(jobs: "list[Job]") -> Any:
    """Return jobs as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", "status", "stage", "done", "dataset", "ipc", "created", "name"):
        table.add_column(heading, no_wrap=heading == "job", overflow="fold")
    for job in jobs:
        record = job.record
        done = f"{100 * job.progress:.0f} %" if job.status in ("running", "canceling") else ""
        created = str(record.get("created_at") or "")[:16].replace("T", " ")
        cells = (
            job.id, job.status, job.phase if done else "", done, record.get("dataset"),
            record.get("images_per_class"), created, record.get("name") or "",
        )  # fmt: skip
        table.add_row(*(Text(clean(cell or "")) for cell in cells))
    return table


def inspect_verb(jobs: JobsArgument) -> None:
    """Show everything that a service says of jobs, as JSON.

    Example: distillery jobs inspect job_01k9...
    """
    with connect(read_settings()) as client:
        records = [dict(client.jobs.get(job_id).record) for job_id in jobs]
    print_json(records[0] if len(records) == 1 else records)


def logs_verb(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Events as they happen, until the job ends.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last lines.")] = None,
) -> None:
    """Print the log of a job.

    Example: distillery jobs logs -f job_01k9...
    """
    if follow and tail is not None:
        raise ConfigError("--follow shows events from the first on, so it takes no --tail")
    settings = read_settings()
    with connect(settings) as client:
        if not follow:
            text = client.jobs.logs(job, tail=tail)
            typer.echo("\n".join(clean(line) for line in text.splitlines()))
            return
        for event in client.jobs.events(job, after=0):
            line = event_text(event.kind, event.data)
            if line is not None:
                typer.echo(line)


def wait_verb(
    jobs: JobsArgument,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after 90s, 30m or 2h.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Wait until jobs have ended.

    Exit code 0 if all succeeded, 1 if one did not, 6 when the time is up; jobs go on then, and
    on Ctrl-C too.

    Example: distillery jobs wait --timeout 2h job_01k9...
    """
    settings = read_settings()
    limit_s = None if timeout is None else seconds_of(timeout)
    with connect(settings) as client:
        try:
            ended = _wait(client, jobs, limit_s, None if quiet else Follower(settings))
        except KeyboardInterrupt as error:
            raise Cancelled(f"stopped waiting; {GONE_ON}") from error
    for job in ended:
        typer.echo(f"{job.id} {job.status}")
    if any(job.status != "succeeded" for job in ended):
        raise typer.Exit(1)


def _wait(
    client: "Client", job_ids: list[str], limit_s: float | None, follow: Follower | None
) -> "list[Job]":
    """Return jobs once they have ended; tells `follow` what the service says meanwhile."""
    start_s, ended = time.monotonic(), []
    on_job = (lambda job: follow(job, time.monotonic())) if follow else None
    for job_id in job_ids:
        left_s = None if limit_s is None else max(0.0, start_s + limit_s - time.monotonic())
        ended.append(client.jobs.wait(job_id, timeout_s=left_s, on_job=on_job))
    return ended


def cancel_verb(
    jobs: JobsArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return when they have stopped.")] = False,
) -> None:
    """Ask jobs to stop; what they have done is kept, and retry goes on from there.

    Example: distillery jobs cancel job_01k9...
    """
    settings = read_settings()
    with connect(settings) as client:
        for job_id in jobs:
            job = client.jobs.cancel(job_id)
            job = client.jobs.wait(job_id) if wait else job
            typer.echo(f"{job.id} {job.status}")


def retry_verb(jobs: JobsArgument) -> None:
    """Run failed or canceled jobs on, from their last complete stage.

    Example: distillery jobs retry job_01k9...
    """
    with connect(read_settings()) as client:
        for job_id in jobs:
            job = client.jobs.retry(job_id)
            typer.echo(f"{job.id} {job.status}")


def rm_verb(
    jobs: JobsArgument,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Stop those first that are not finished.")
    ] = False,
) -> None:
    """Remove finished jobs and their files from a service.

    What other jobs share with them in the cache stays.

    Example: distillery jobs rm job_01k9...
    """
    settings = read_settings()
    with connect(settings) as client:
        for job_id in jobs:
            if force:
                client.jobs.cancel(job_id)
                client.jobs.wait(job_id)
            client.jobs.delete(job_id)
            typer.echo(job_id)


def _print_job(job: "Job", *, as_json: bool) -> None:
    """Print a new job."""
    if as_json:
        print_json(dict(job.record))
        return
    typer.echo(job.id)
    page = job.record.get("urls", {}).get("page")
    if page:
        err(read_settings()).print(f"Its page: {clean(page)}", soft_wrap=True)


def verbs() -> dict[str, Any]:
    """Return the verbs of this module by name."""
    return {
        "jobs create": create_verb, "jobs ps": ps_verb, "jobs inspect": inspect_verb,
        "jobs logs": logs_verb, "jobs wait": wait_verb, "jobs cancel": cancel_verb,
        "jobs retry": retry_verb, "jobs compare": compare_verb, "jobs rm": rm_verb,
    }  # fmt: skip
