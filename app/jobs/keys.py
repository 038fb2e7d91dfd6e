"""Keys to the API: shown once, stored as their SHA-256; and the sessions that were logged out.

A key carries 256 random bits, so a plain hash cannot be searched; nothing slower is needed.
"""

import hashlib
import secrets
from datetime import datetime

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.ids import new_id
from app.jobs.records import KeyRecord
from app.jobs.rows import now
from app.jobs.tables import ENDED_SESSIONS, KEYS

PREFIX = "dst_"
_SHOWN = (KEYS.c.id, KEYS.c.name, KEYS.c.created_at, KEYS.c.revoked_at)


class KeyStore:
    """The API keys of a database, and the sessions that have ended before their time."""

    def __init__(self, database: Database) -> None:
        """Take the database; its tables must be there."""
        self.database = database

    def create(self, name: str) -> tuple[KeyRecord, str]:
        """Make a key; return its record and the secret, which is not stored."""
        secret = PREFIX + secrets.token_urlsafe(32)
        record = KeyRecord(id=new_id("key"), name=name, created_at=now(), revoked_at=None)
        row = {
            "id": record.id, "name": name, "sha256": _digest(secret),
            "created_at": record.created_at, "revoked_at": None,
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(KEYS.insert(), row)
        return record, secret

    def find(self, secret: str) -> KeyRecord | None:
        """Return the key of a secret, None where there is none or it was revoked.

        The comparison is of digests, so its time tells nothing of the secret.
        """
        query = sa.select(*_SHOWN).where(
            KEYS.c.sha256 == _digest(secret), KEYS.c.revoked_at.is_(None)
        )
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else KeyRecord(**row._mapping)

    def digests(self) -> set[str]:
        """Return the SHA-256 of all valid keys."""
        query = sa.select(KEYS.c.sha256).where(KEYS.c.revoked_at.is_(None))
        with self.database.read() as connection:
            return set(connection.scalars(query))

    def is_valid(self, key_id: str) -> bool:
        """Say whether a key of this id is there and was not revoked."""
        query = sa.select(KEYS.c.id).where(KEYS.c.id == key_id, KEYS.c.revoked_at.is_(None))
        with self.database.read() as connection:
            return connection.scalar(query) is not None

    def end_session(self, session: str, expires_at: datetime) -> None:
        """Remember that a session was logged out; forget those whose time is over."""
        row = {"sha256": _digest(session), "expires_at": expires_at}
        with self.database.write() as connection:
            old = ENDED_SESSIONS.c.expires_at < now()
            connection.execute(ENDED_SESSIONS.delete().where(old))
            connection.execute(
                ENDED_SESSIONS.delete().where(ENDED_SESSIONS.c.sha256 == row["sha256"])
            )
            connection.execute(ENDED_SESSIONS.insert(), row)

    def has_ended(self, session: str) -> bool:
        """Say whether a session was logged out."""
        query = sa.select(ENDED_SESSIONS.c.sha256).where(
            ENDED_SESSIONS.c.sha256 == _digest(session)
        )
        with self.database.read() as connection:
            return connection.scalar(query) is not None

    def list(self) -> list[KeyRecord]:
        """Return all keys, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(*_SHOWN).order_by(KEYS.c.id))
            return [KeyRecord(**row._mapping) for row in rows]

    def revoke(self, key_id: str) -> bool:
        """End a key; say whether it was there and valid."""
        where = sa.and_(KEYS.c.id == key_id, KEYS.c.revoked_at.is_(None))
        with self.database.write() as connection:
            return (
                connection.execute(KEYS.update().where(where).values(revoked_at=now())).rowcount > 0
            )


def _digest(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
