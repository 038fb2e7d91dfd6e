"""Uploaded datasets: their names, places and what the inspection found."""

from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.ids import new_id
from app.jobs.records import DatasetRecord
from app.jobs.rows import now
from app.jobs.tables import DATASETS


class DatasetStore:
    """The uploaded datasets of a database."""

    def __init__(self, database: Database) -> None:
        """Take the database; its tables must be there."""
        self.database = database

    def create(
        self, name: str, *, kind: str, path: str, facts: dict[str, Any] | None = None, status: str
    ) -> DatasetRecord:
        """Store a dataset.

        Raises:
            sqlalchemy.exc.IntegrityError: If the name is taken.
        """
        record = DatasetRecord(
            id=new_id("ds"), name=name, kind=kind, path=path, facts=facts or {}, status=status,
            created_at=now(),
        )  # fmt: skip
        row = {column.name: getattr(record, column.name) for column in DATASETS.columns}
        with self.database.write() as connection:
            connection.execute(DATASETS.insert(), row)
        return record

    def get(self, name: str) -> DatasetRecord | None:
        """Return a dataset by its name, None where there is none."""
        with self.database.read() as connection:
            query = sa.select(DATASETS).where(DATASETS.c.name == name)
            row = connection.execute(query).one_or_none()
        return None if row is None else DatasetRecord(**row._mapping)

    def list(self) -> list[DatasetRecord]:
        """Return all datasets by name."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(DATASETS).order_by(DATASETS.c.name))
            return [DatasetRecord(**row._mapping) for row in rows]

    def change(self, name: str, **fields: Any) -> DatasetRecord | None:
        """Change fields of a dataset; None where there is none of this name."""
        statement = DATASETS.update().where(DATASETS.c.name == name).values(**fields)
        with self.database.write() as connection:
            row = connection.execute(statement.returning(DATASETS)).one_or_none()
        return None if row is None else DatasetRecord(**row._mapping)

    def delete(self, name: str) -> bool:
        """Forget a dataset; say whether it was there."""
        with self.database.write() as connection:
            return connection.execute(DATASETS.delete().where(DATASETS.c.name == name)).rowcount > 0
