"""The database of the service: one engine, short transactions, migrations.

SQLite runs in WAL mode with a busy timeout, and a writing transaction takes the write lock when it
begins: one that reads first and writes later could not wait for another writer. A commit outlives
every process; only a power cut may take the last moments, and leaves the file whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from app.jobs.tables import COUNTERS, ENDED_SESSIONS, METADATA, QUEUE_INDEX, VERSION
from distillery.errors import ConfigError

BUSY_TIMEOUT_MS = 30_000
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=15s"
"""A process that is stopped in the middle of a change does not hold up the others for long."""
MIGRATION_LOCK = 0x44495354  # any number that the programs of one database agree on


class Database:
    """Transactions on the database of a URL."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        """Take a `sqlite:///` or `postgresql://` URL; connects when first used.

        Raises:
            ConfigError: If the URL is of another kind.
        """
        self.url = with_driver(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        arguments = {} if self.is_sqlite else {"options": POSTGRES_OPTIONS}
        self.engine = sa.create_engine(  # a file needs no asking whether it is still there
            self.url, pool_size=pool_size, pool_pre_ping=not self.is_sqlite, connect_args=arguments
        )
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Hold a transaction that only reads: all that it sees is of one moment."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Hold a transaction that writes; it is kept if the block ends well."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def clock(self) -> sa.ColumnElement[float]:
        """Return the expression for seconds since 1970 by the database's clock."""
        if self.is_sqlite:
            return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float)
        return sa.literal_column("extract(epoch from clock_timestamp())::float8", sa.Float)

    def migrate(self) -> None:
        """Bring the tables to this version; several processes may do so at once.

        Raises:
            ConfigError: If a newer version has been here.
        """
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            VERSION.create(connection, checkfirst=True)
            found = connection.scalar(sa.select(VERSION.c.version)) or 0
            if found > len(MIGRATIONS):
                raise ConfigError(
                    f"the database has version {found}, this program knows up to "
                    f"{len(MIGRATIONS)}: use a newer distillery, or another DISTILLERY_DATA"
                )
            for step in MIGRATIONS[found:]:
                step(connection)
            connection.execute(VERSION.delete())
            connection.execute(VERSION.insert().values(version=len(MIGRATIONS)))

    def dispose(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def _first_tables(connection: sa.Connection) -> None:
    """Make all tables."""
    METADATA.create_all(connection)
    connection.execute(COUNTERS.insert().values(name="ticket", value=0))


def _queue_index(connection: sa.Connection) -> None:
    """Index the order of the queue; new databases have got it with their tables."""
    QUEUE_INDEX.create(connection, checkfirst=True)


def _ended_sessions(connection: sa.Connection) -> None:
    """Make the table of sessions that were logged out."""
    ENDED_SESSIONS.create(connection, checkfirst=True)


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    _first_tables, _queue_index, _ended_sessions
)  # fmt: skip
"""Each brings the tables from the version of its index to the next; never changed, only added."""


def with_driver(text: str) -> sa.URL:
    """Return a URL that names the driver we install."""
    try:
        url = sa.make_url(text)
        kind = url.get_backend_name()
    except sa.exc.ArgumentError:
        kind = ""
    if kind == "sqlite":
        return url
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise ConfigError(
        "DISTILLERY_DATABASE_URL must begin with sqlite:/// or postgresql://, got "
        f"{text.split(':', 1)[0]!r}"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Set up a new SQLite connection."""
    connection.isolation_level = None  # no BEGIN of the driver's own; see `_begin_sqlite`
    quick_and_safe(connection)
    connection.execute("PRAGMA journal_mode=WAL")


def quick_and_safe(connection: Any) -> None:
    """Let a new SQLite connection wait for other writers, and not for the disk at each commit.

    Source: https://www.sqlite.org/pragma.html#pragma_synchronous, NORMAL in WAL mode.
    """
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction, with the write lock where it will write."""
    is_writing = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")
