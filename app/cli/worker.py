"""`distillery worker`: take jobs from a database and do them, until told to stop."""

import os
import re
import signal
import sys
import threading
from typing import Annotated

import typer

from app.cli.local import start_local
from app.cli.serve import DataOption, LogOption, log_format
from app.settings import read_settings
from distillery.errors import ConfigError


def worker_verb(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    name: Annotated[
        str | None,
        typer.Option("--id", help="Own name, unlike any other's. Default: machine and device."),
    ] = None,
    data: DataOption = None,
    no_migrate: Annotated[
        bool, typer.Option("--no-migrate", help="The tables were made by `distillery migrate`.")
    ] = False,
    ends_with_stdin: Annotated[
        bool, typer.Option("--ends-with-stdin", help="Stop when stdin closes.")
    ] = False,
    log: LogOption = None,
) -> None:
    """Do the jobs of a queue.

    Joins the database that DISTILLERY_DATABASE_URL names, by default the one in the data folder,
    which all workers and the API must share. Start one for each GPU. On SIGTERM or Ctrl-C the
    running stage writes a checkpoint, and the job goes on here or elsewhere.

    Example: distillery worker --device cuda:0
    """
    from app.worker.main import run_worker

    settings = read_settings(data=data)
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ConfigError(f"--device is auto, cpu, cuda or cuda:N, got {device!r}")
    start_local()
    log_format(log)
    if ends_with_stdin:
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    run_worker(
        settings, worker_id=name, device=None if device == "auto" else device,
        migrate=not no_migrate,
    )  # fmt: skip


def _end_with_stdin() -> None:
    """Ask this process to stop once nobody holds the other end of its stdin any more."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
