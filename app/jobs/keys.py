"""Keys to the API: shown once, stored as their SHA-256.

A key carries 256 random bits, so a plain hash cannot be searched; nothing slower is needed.
"""

import hashlib
import secrets

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.ids import new_id
from app.jobs.records import KeyRecord
from app.jobs.rows import now
from app.jobs.tables import KEYS

PREFIX = "dst_"
_SHOWN = (KEYS.c.id, KEYS.c.name, KEYS.c.created_at, KEYS.c.revoked_at)


class KeyStore:
    """The API keys of a database."""

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
