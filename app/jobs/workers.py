"""The workers of a database and their signs of life, on the clock of the database."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.records import WorkerRecord
from app.jobs.rows import now
from app.jobs.tables import WORKERS


class WorkerStore:
    """The workers of a database."""

    def __init__(self, database: Database) -> None:
        """Take the database; its tables must be there."""
        self.database = database

    def start(self, executor_id: str, boot: str, facts: dict[str, Any]) -> None:
        """Enter a worker that starts, in the place of an earlier one of its id."""
        row = {
            "executor_id": executor_id, "boot": boot, "started_at": now(), "stopped_at": None,
            "facts": facts,
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(WORKERS.delete().where(WORKERS.c.executor_id == executor_id))
            connection.execute(WORKERS.insert().values(beat=self.database.clock(), **row))

    def beat(self, executor_id: str, boot: str, facts: dict[str, Any] | None = None) -> bool:
        """Say that a worker lives; False where another process has taken its id."""
        fields = {} if facts is None else {"facts": facts}
        return self._change(executor_id, boot, beat=self.database.clock(), **fields)

    def stop(self, executor_id: str, boot: str) -> bool:
        """Say that a worker ended in good order, so that nobody waits for its next beat."""
        return self._change(executor_id, boot, stopped_at=now())

    def get(self, executor_id: str) -> WorkerRecord | None:
        """Return a worker, None where none of this id was ever here."""
        return next((w for w in self.list() if w.executor_id == executor_id), None)

    def list(self) -> list[WorkerRecord]:
        """Return all workers that were ever here and are not forgotten."""
        age = (self.database.clock() - WORKERS.c.beat).label("age_s")
        columns = [c for c in WORKERS.columns if c.name != "beat"]
        beat = WORKERS.c.beat.label("beat_s")
        query = sa.select(*columns, beat, age).order_by(WORKERS.c.executor_id)
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def forget(self, executor_id: str, boot: str) -> None:
        """Remove a worker that is gone and holds nothing any more."""
        with self.database.write() as connection:
            connection.execute(WORKERS.delete().where(_is(executor_id, boot)))

    def _change(self, executor_id: str, boot: str, **fields: Any) -> bool:
        """Change a worker's row, if it is still this process's."""
        statement = WORKERS.update().where(_is(executor_id, boot)).values(**fields)
        with self.database.write() as connection:
            return connection.execute(statement).rowcount > 0


def _is(executor_id: str, boot: str) -> sa.ColumnElement[bool]:
    """Return the condition for one process."""
    return sa.and_(WORKERS.c.executor_id == executor_id, WORKERS.c.boot == boot)


def _record(row: Any) -> WorkerRecord:
    """Return the worker of a row."""
    fields = dict(row._mapping)
    fields["beat"] = datetime.fromtimestamp(fields.pop("beat_s"), UTC)
    return WorkerRecord(**fields)
