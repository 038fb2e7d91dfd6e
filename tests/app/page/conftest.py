"""Pages over real stores on SQLite; the queue is not needed for looking."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_helpers import NoEngine, Site
from starlette.testclient import TestClient

from app.api.app import build_api
from app.jobs.answers import AnswerStore
from app.jobs.database import Database
from app.jobs.datasets import DatasetStore
from app.jobs.keys import KeyStore
from app.jobs.service import Service
from app.jobs.store import JobStore
from app.jobs.workers import WorkerStore
from app.settings import read_settings


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    databases = []

    def make(**environment: str) -> Site:
        values = {"HOME": str(tmp_path), "DISTILLERY_DATA": str(tmp_path / "data"),
                  "DISTILLERY_AUTH": "off", **environment}  # fmt: skip
        settings = read_settings(values)
        settings.data.mkdir(parents=True, exist_ok=True)
        database = Database(settings.database_url)
        databases.append(database)
        database.migrate()
        service = Service(
            settings, database, JobStore(database), DatasetStore(database), KeyStore(database),
            AnswerStore(database), WorkerStore(database), NoEngine(),  # type: ignore[arg-type]
        )  # fmt: skip
        client = TestClient(build_api(settings, service), base_url="http://localhost")
        return Site(client, service)

    yield make
    for database in databases:
        database.dispose()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()
