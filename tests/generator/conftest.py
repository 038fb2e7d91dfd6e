"""One smoke job on digits, run once and read by many tests."""

from pathlib import Path

import pytest
from generator_helpers import SmokeJob, finish, new_job


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> SmokeJob:
    """A finished job, undisturbed, with a cache of its own; read only."""
    root = tmp_path_factory.mktemp("smoke")
    job = new_job(root / "job", root / "cache")
    return SmokeJob(root / "job", root / "cache", job, finish(root / "job", job, root / "cache"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
