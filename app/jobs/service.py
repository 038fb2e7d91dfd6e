"""The parts of the service, opened together from the settings; for API, pages and workers alike."""

from dataclasses import dataclass
from pathlib import Path

from app.jobs.answers import AnswerStore
from app.jobs.database import Database
from app.jobs.datasets import DatasetStore
from app.jobs.disks import refuse_network_disk
from app.jobs.engine import JobEngine, engine_url, prepare_engine
from app.jobs.keys import KeyStore
from app.jobs.store import JobStore
from app.jobs.workers import WorkerStore
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that a request or a worker needs."""

    settings: Settings
    database: Database
    store: JobStore
    datasets: DatasetStore
    keys: KeyStore
    answers: AnswerStore
    workers: WorkerStore
    engine: JobEngine

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job."""
        return job_folder(self.settings, job_id)

    def close(self) -> None:
        """Close the connections."""
        self.engine.close()
        self.database.dispose()


def job_folder(settings: Settings, job_id: str) -> Path:
    """Return the folder of a job."""
    return settings.data / "jobs" / job_id


def prepare_database(settings: Settings) -> None:
    """Make or update the tables of the service and of its engine.

    Raises:
        ConfigError: If the database is of a kind, of a version or in a place that cannot be used.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    try:
        if database.is_sqlite and database.url.database:
            refuse_network_disk(Path(database.url.database))
        database.migrate()
    finally:
        database.dispose()
    prepare_engine(engine_url(settings))


def open_service(settings: Settings, *, migrate: bool = True) -> Service:
    """Open the service of these settings.

    Args:
        settings: Of this process.
        migrate: Make or update the tables first; False where a step of its own has done it.
    """
    if migrate:
        prepare_database(settings)
    database = Database(settings.database_url)
    store = JobStore(database)
    return Service(
        settings, database, store, DatasetStore(database), KeyStore(database),
        AnswerStore(database), WorkerStore(database), JobEngine(store, settings),
    )  # fmt: skip
