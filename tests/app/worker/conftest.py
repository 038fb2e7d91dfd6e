"""A service with real workers whose stages do no work (`fake_stage`)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_house import House


@pytest.fixture
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    """A service on SQLite; `database_url` in a test's own arguments makes it that database."""
    url = None
    if "database_url" in request.fixturenames:
        url = request.getfixturevalue("database_url")
    data = tmp_path / "data"
    data.mkdir()
    opened = House(data, url, 4.0)
    yield opened
    opened.close()
