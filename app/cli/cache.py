"""`distillery cache`: what jobs have left for one another, and the removal of what is not used."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import clean, err, out, size_text
from app.cli.remote import print_json
from app.cli.serve import DataOption
from app.settings import Settings, read_settings

if TYPE_CHECKING:
    from app.jobs.store import JobStore
    from generator.cache import Entry

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on stdout.")]
DAY_S, GB = 86_400.0, 1e9


def cache_verb(
    context: typer.Context, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List what lies in the cache: prepared data, bases, latents, adapters, evaluations.

    The least recently used comes first. In use is what a process works with now, and what a job of
    the service on this machine needs that waits or runs.

    Example: distillery cache
    """
    if context.invoked_subcommand is not None:
        return
    from generator.cache import list_entries

    settings = read_settings(data=data)
    entries = list_entries(settings.cache)
    with _store(settings) as store:
        rows = [_row(entry, users) for entry, users in _with_users(entries, store)]
    if as_json:
        print_json({"cache": str(settings.cache), "entries": rows})
        return
    out(settings).print(_table(rows))
    total = size_text(sum(entry.size_bytes for entry in entries))
    err(settings).print(f"{_count(len(entries))}, {total}, in {clean(settings.cache)}")


def prune_verb(
    keep_gb: Annotated[
        float | None,
        typer.Option(min=0, help="Remove the least recently used until no more is left."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Remove what was not used for so long."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what nobody uses from the cache; a job that needs it makes it again.

    Leftovers always go: what stopped runs have left unfinished and untouched for a week, and lock
    files of nothing. Entries go by --keep-gb or --older-than. What a process works with stays, and
    what a job of the service on this machine needs that waits or runs.

    Example: distillery cache prune --keep-gb 20
    """
    from app.jobs.cache_use import CacheUse
    from generator.cache import list_entries, prune

    settings = read_settings(data=data)
    with _store(settings) as store:
        entries = list_entries(settings.cache)
        use = CacheUse(store, entries) if store else None
        pruned = prune(
            settings.cache, entries, is_used=use.is_used if use else lambda _: False,
            keep_bytes=None if keep_gb is None else keep_gb * GB,
            older_than_s=None if older_than is None else older_than * DAY_S, is_dry_run=dry_run,
        )  # fmt: skip
    rows = [_row(entry, []) for entry in pruned.entries]
    if as_json:
        print_json({"removed": rows, "leftovers": pruned.num_leftovers, "dry_run": dry_run})
        return
    for row in rows:
        typer.echo(f"{row['name']}  {size_text(row['size_bytes'])}")
    total = size_text(sum(entry.size_bytes for entry in pruned.entries))
    what = "would be removed" if dry_run else "removed"
    err(settings).print(
        f"{_count(len(rows))} and {pruned.num_leftovers} leftover files {what}, {total}"
    )


@contextmanager
def _store(settings: Settings) -> "Iterator[JobStore | None]":
    """Open the jobs of the service; None where there has never been one."""
    from app.jobs.database import Database
    from app.jobs.service import prepare_database
    from app.jobs.store import JobStore

    database = Database(settings.database_url)
    try:
        if database.is_sqlite and not Path(str(database.url.database)).exists():
            yield None
            return
        prepare_database(settings)
        yield JobStore(database)
    finally:
        database.dispose()


def _with_users(
    entries: list["Entry"], store: "JobStore | None"
) -> "Iterable[tuple[Entry, list[str]]]":
    """Return entries, each with what uses it."""
    from app.jobs.cache_use import CacheUse

    use = CacheUse(store, entries) if store else None
    for entry in entries:
        jobs = use.jobs_of(entry) if use else []
        at_work = ["a process"] if entry.is_held and not jobs else []
        yield entry, [f"{job.id} ({job.status})" for job in jobs] + at_work


def _row(entry: "Entry", users: list[str]) -> dict[str, Any]:
    """Return what is told of an entry."""
    return {
        "name": entry.folder.name, "kind": entry.kind, "is_complete": entry.is_complete,
        "size_bytes": entry.size_bytes, "used_by": users,
        "last_use": datetime.fromtimestamp(entry.last_use, UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Any:
    """Return entries as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "size", "last use", "in use by", "entry", box=box.SIMPLE_HEAD)
    for row in rows:
        kind = row["kind"] + ("" if row["is_complete"] else ", unfinished")
        when = row["last_use"][:16].replace("T", " ")
        users = ", ".join(row["used_by"])
        cells = (kind, size_text(row["size_bytes"]), when, users, row["name"])
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"


def verbs() -> dict[str, Any]:
    """Return the verbs of this module by name."""
    return {"cache": cache_verb, "cache prune": prune_verb}
