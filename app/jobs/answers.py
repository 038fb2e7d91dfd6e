"""Stored answers to requests with an idempotency key, so that a repeated request is replayed.

The key of a `POST /jobs` is bound to its job in the transaction that makes the job: where the
process dies before the answer is stored, the next request still finds the job.
"""

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.records import AnswerRecord
from app.jobs.rows import now
from app.jobs.tables import ANSWERS

KEEP = timedelta(hours=72)


class AnswerStore:
    """The idempotency keys of a database."""

    def __init__(self, database: Database) -> None:
        """Take the database; its tables must be there."""
        self.database = database

    def find(self, key: str, scope: str) -> AnswerRecord | None:
        """Return what is known of a key, None where it is new."""
        query = sa.select(ANSWERS).where(ANSWERS.c.key == key, ANSWERS.c.scope == scope)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else AnswerRecord(**row._mapping)

    def finish(
        self, key: str, scope: str, *, status: int, headers: Mapping[str, str], body: str
    ) -> None:
        """Store the answer that a repeated request gets."""
        where = sa.and_(ANSWERS.c.key == key, ANSWERS.c.scope == scope)
        with self.database.write() as connection:
            statement = ANSWERS.update().where(where)
            connection.execute(statement.values(status=status, headers=dict(headers), body=body))

    def purge(self) -> None:
        """Forget the keys that are older than `KEEP`."""
        with self.database.write() as connection:
            connection.execute(ANSWERS.delete().where(ANSWERS.c.created_at < now() - KEEP))
