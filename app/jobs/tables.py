"""Tables of the service, the same on SQLite and on Postgres.

Times are UTC; `workers.beat` alone is in seconds since 1970 by the database's own clock, which is
the only clock that two machines share.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()
JSON = sa.JSON(none_as_null=True)


class Utc(sa.types.TypeDecorator[datetime]):
    """A point in time, always with its zone; SQLite has no column type that keeps one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Refuse a time without a zone; the others become UTC."""
        assert value is None or value.tzinfo is not None, "times carry their zone"
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give the zone back that SQLite dropped."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


JOBS = sa.Table(
    "jobs", METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("status", sa.String(12), nullable=False, index=True),
    sa.Column("phase", sa.String(40)),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("started_at", Utc),
    sa.Column("finished_at", Utc),
    sa.Column("request", JSON, nullable=False),
    sa.Column("config", JSON),
    sa.Column("decisions", JSON, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("metadata", JSON, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("ticket", sa.Integer, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("images_per_class", sa.Integer, nullable=False),
    sa.Column("preset", sa.String(40), nullable=False),
    sa.Column("progress", JSON),
    sa.Column("phases", JSON, nullable=False),
    sa.Column("worker", JSON),
    sa.Column("result", JSON),
    sa.Column("error", JSON),
    sa.Column("warnings", JSON, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
)  # fmt: skip

QUEUE_INDEX = sa.Index("jobs_by_place", JOBS.c.status, JOBS.c.priority, JOBS.c.ticket)

LABELS = sa.Table(  # the metadata of jobs once more, as rows that an index finds
    "job_labels", METADATA,
    sa.Column("job_id", sa.String(40), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(512), nullable=False),
    sa.Index("job_labels_by_value", "key", "value"),
)  # fmt: skip

EVENTS = sa.Table(
    "events", METADATA,
    sa.Column("job_id", sa.String(40), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("data", JSON, nullable=False),
)  # fmt: skip

COUNTERS = sa.Table(
    "counters", METADATA,
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)  # fmt: skip

ANSWERS = sa.Table(
    "idempotency", METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("scope", sa.String(200), primary_key=True),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("job_id", sa.String(40)),
    sa.Column("status", sa.Integer),
    sa.Column("headers", JSON, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
)  # fmt: skip

DATASETS = sa.Table(
    "datasets", METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("facts", JSON, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("created_at", Utc, nullable=False),
)  # fmt: skip

KEYS = sa.Table(
    "api_keys", METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("revoked_at", Utc),
)  # fmt: skip

ENDED_SESSIONS = sa.Table(  # of browsers that have logged out, until their time is over anyway
    "ended_sessions", METADATA,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("expires_at", Utc, nullable=False),
)  # fmt: skip

WORKERS = sa.Table(
    "workers", METADATA,
    sa.Column("executor_id", sa.String(200), primary_key=True),
    sa.Column("boot", sa.String(40), nullable=False),
    sa.Column("beat", sa.Float(53), nullable=False),
    sa.Column("started_at", Utc, nullable=False),
    sa.Column("stopped_at", Utc),
    sa.Column("facts", JSON, nullable=False),
)  # fmt: skip

VERSION = sa.Table(
    "schema_version", METADATA,
    sa.Column("version", sa.Integer, primary_key=True),
)  # fmt: skip
