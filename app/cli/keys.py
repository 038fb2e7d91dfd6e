"""`distillery keys ...`, `migrate` and `healthcheck`: what an operator does beside a database.

They work on the database itself, not through the API, so that they need no key.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.console import clean, err, out
from app.cli.remote import local_service, print_json
from app.cli.serve import DataOption
from app.settings import Settings, read_settings
from distillery.client.client import DEFAULT_URL
from distillery.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from app.jobs.keys import KeyStore

MAX_NAME = 100


@contextmanager
def _keys(settings: Settings) -> "Iterator[KeyStore]":
    """Open the keys of the database."""
    from app.jobs.database import Database
    from app.jobs.keys import KeyStore
    from app.jobs.service import prepare_database

    prepare_database(settings)
    database = Database(settings.database_url)
    try:
        yield KeyStore(database)
    finally:
        database.dispose()


def create_verb(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")], data: DataOption = None
) -> None:
    """Make a key to the API and print it; it is shown this once.

    Example: distillery keys create laptop
    """
    settings = read_settings(data=data)
    if not name.strip() or len(name) > MAX_NAME or clean(name) != name:
        raise ConfigError(f"a key's name is 1 to {MAX_NAME} printable characters, got {name!r}")
    with _keys(settings) as keys:
        record, secret = keys.create(name)
    err(settings).print(f"Key {record.id}, for {name}: keep it, it is not shown again.")
    typer.echo(secret)


def ls_verb(
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """List the keys.

    Example: distillery keys ls
    """
    settings = read_settings(data=data)
    with _keys(settings) as keys:
        rows: list[dict[str, Any]] = [
            {
                "id": key.id, "name": key.name, "created_at": key.created_at.isoformat(),
                "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
            }
            for key in keys.list()
        ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "name", "created", "state", box=box.SIMPLE_HEAD)
    for row in rows:
        state = "revoked" if row["revoked_at"] else "valid"
        cells = (row["id"], row["name"], row["created_at"][:16].replace("T", " "), state)
        table.add_row(*(Text(clean(cell)) for cell in cells))
    out(settings).print(table)


def revoke_verb(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id, as `keys ls` shows it.")],
    data: DataOption = None,
) -> None:
    """End a key; requests with it are refused within seconds.

    Example: distillery keys revoke key_01k9...
    """
    settings = read_settings(data=data)
    with _keys(settings) as keys:
        was_valid = keys.revoke(key)
    if not was_valid:
        raise ServiceError(
            f"there is no valid key {clean(key)!r}: see `distillery keys ls`", status=404
        )
    typer.echo(key)


def link_verb(
    url: Annotated[str | None, typer.Option(help="Where the browser finds the service.")] = None,
    data: DataOption = None,
) -> None:
    """Print a login link for a browser; it works once, within a day.

    Example: distillery keys link
    """
    from app.api.auth import new_login_token

    settings = read_settings(data=data)
    place = url or settings.public_url or settings.url
    place = place or local_service(settings.data).get("url", DEFAULT_URL)
    typer.echo(f"{place.rstrip('/')}/login?token={new_login_token(settings.data)}")


def migrate_verb(data: DataOption = None) -> None:
    """Make or update the tables of the service, and end.

    serve and worker do it themselves unless they get --no-migrate. Repeating it changes nothing.

    Example: distillery migrate
    """
    from app.jobs.service import prepare_database

    settings = read_settings(data=data)
    prepare_database(settings)
    err(settings).print("The tables are up to date.")


def healthcheck_verb(
    part: Annotated[Literal["api", "worker"], typer.Argument(help="What to look at.")],
    url: Annotated[str | None, typer.Option(help="Of the API. Default: this machine's.")] = None,
    data: DataOption = None,
) -> None:
    """Say by the exit code whether a part of the service on this machine is well.

    api: it answers that it is ready. worker: one of this machine has beaten lately.

    Example: distillery healthcheck api
    """
    settings = read_settings(data=data)
    if part == "worker":
        _check_worker(settings)
        return
    from distillery.client.transport import Transport

    place = url or local_service(settings.data).get("url", DEFAULT_URL)
    transport = Transport(place, None, timeout_s=5.0, max_retries=0)
    transport.request("GET", "/health/ready")


def _check_worker(settings: Settings) -> None:
    """Raise where no worker of this machine has given a sign of life in time."""
    from app.jobs.database import Database
    from app.jobs.workers import WorkerStore

    database = Database(settings.database_url)
    try:
        workers = WorkerStore(database).list()
    finally:
        database.dispose()
    here = socket.gethostname()
    own = [w for w in workers if w.facts.get("host") == here and w.stopped_at is None]
    if not any(worker.age_s < settings.dead_after_s for worker in own):
        raise ServiceError(f"no worker of {here} has given a sign of life lately")


def verbs() -> dict[str, Any]:
    """Return the verbs of this module by name."""
    return {
        "keys create": create_verb, "keys ls": ls_verb, "keys revoke": revoke_verb,
        "keys link": link_verb, "migrate": migrate_verb, "healthcheck": healthcheck_verb,
    }  # fmt: skip
