"""How a worker launches the engine: under its own id, the pinned version and plain JSON."""

from dbos import DBOSConfig, DBOSPortableJSONSerializer

from app.jobs.engine import APPLICATION, VERSION, sqlite_engine


def engine_config(url: str, executor_id: str) -> DBOSConfig:
    """Return the engine's configuration for one executor id.

    The tables are made beforehand (`app.jobs.service.prepare_database`). The default serializer
    would be pickle, with which whoever can write to the database could run code here.
    """
    return {
        "name": APPLICATION,
        "system_database_url": url,
        "system_database_engine": sqlite_engine(url),
        "executor_id": executor_id,
        "application_version": VERSION,
        "serializer": DBOSPortableJSONSerializer(),
        "run_migrations": False,
        "log_level": "WARNING",
    }
