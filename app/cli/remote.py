"""The service that a verb talks to, and how its jobs are told on a terminal.

Without `DISTILLERY_URL` it is the one that `distillery serve` started on this machine: that leaves
address and key in its data folder, in a file that only its user can read.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.console import clean, err, time_text
from app.settings import Settings
from distillery.client.client import DEFAULT_URL, Client
from distillery.client.jobs import Job
from distillery.errors import ConfigError
from distillery.files import read_json

CLIENT_FILE = "client.json"
"""In the data folder: `{"url", "api_key"}` of the service on this machine."""
UNITS_S = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}

JobsArgument = Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids of jobs.")]


def connect(settings: Settings) -> Client:
    """Return a client of the service that the settings name, or of the one on this machine."""
    url, api_key = settings.url, settings.api_key
    if url is None:
        here = local_service(settings.data)
        url, api_key = here.get("url", DEFAULT_URL), api_key or here.get("api_key")
    return Client(url, api_key=api_key)


def local_service(data: Path) -> dict[str, Any]:
    """Return what the service on this machine left for its user, or nothing."""
    try:
        return dict(read_json(data / CLIENT_FILE))
    except (OSError, ValueError, TypeError):
        return {}


def write_local_service(data: Path, url: str, api_key: str | None) -> None:
    """Leave address and key for the verbs of this user."""
    path, content = data / CLIENT_FILE, json.dumps({"url": url, "api_key": api_key}).encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
    os.replace(partial, path)


def seconds_of(text: str) -> float:
    """Return the seconds of `90`, `90s`, `30m`, `2h` or `1d`.

    Raises:
        ConfigError: If it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)", text.strip())
    if found is None:
        raise ConfigError(f"a duration looks like 90s, 30m or 2h, got {text!r}")
    return float(found[1]) * UNITS_S[found[2]]


def print_json(value: Any) -> None:
    """Write a value as readable JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True))


def job_line(job: Job) -> str:
    """Return where a job stands, in a line."""
    record, progress = job.record, job.record.get("progress") or {}
    parts = [f"{job.id}: {job.status}"]
    if job.status == "queued" and record.get("queue_position"):
        parts.append(f"place {record['queue_position']} in the queue")
    if job.status in ("running", "canceling") and job.phase:
        parts.append(f"{job.phase}, {100 * job.progress:.0f} % of the job")
        parts += [clean(progress["message"])] if progress.get("message") else []
        if progress.get("eta_seconds") is not None:
            parts.append(f"about {time_text(progress['eta_seconds'])} left")
    if job.status == "failed":
        parts.append(clean(job.reason().removeprefix("it failed: ")))
    return ", ".join(parts)


class Follower:
    """Writes a line on stderr when a job has come on: another state or stage, a tenth, 30 s."""

    EVERY_S, EVERY_SHARE = 30.0, 0.1

    def __init__(self, settings: Settings) -> None:
        self._console = err(settings)
        self._last: dict[str, tuple[str, float, float]] = {}

    def __call__(self, job: Job, now_s: float) -> None:
        """Take what the service said of a job just now."""
        state = f"{job.status} {job.phase}"
        before, share, at_s = self._last.get(job.id, ("", 0.0, now_s))
        came_on = job.progress - share >= self.EVERY_SHARE
        waited = now_s - at_s >= self.EVERY_S and not job.is_finished
        if state != before or came_on or waited:
            self._last[job.id] = (state, job.progress, now_s)
            self._console.print(job_line(job), soft_wrap=True)


def event_text(kind: str, data: Mapping[str, Any]) -> str | None:
    """Return an event as a line of a log, None for those that only move bars."""
    if kind == "log":
        return f"{data.get('level', 'info')}: {clean(data.get('message', ''))}"
    if kind == "status":
        return f"status: {clean(data.get('status'))}"
    if kind == "stage":
        took = data.get("seconds")
        done = f" after {time_text(took)}" if isinstance(took, int | float) else ""
        summary = f"; {clean(data['summary'])}" if data.get("summary") else ""
        return f"{clean(data.get('name'))}: {clean(data.get('status'))}{done}{summary}"
    return None
