"""The service prunes its cache, and keeps what its unfinished jobs use."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.jobs import cache_use
from app.jobs.cache_use import CacheUse, keep_bytes, prune_cache
from app.jobs.housekeeping import clean, delete_job
from app.jobs.service import Service, open_service
from app.settings import read_settings
from distillery.files import write_json
from generator.cache import list_entries
from generator.entries import RECORD, note_use


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    places = {"HOME": str(tmp_path), "DISTILLERY_CACHE": str(tmp_path / "cache")}
    opened = open_service(read_settings(places | {"DISTILLERY_CACHE_KEEP_GB": "0"}))
    yield opened
    opened.close()


def entry(service: Service, kind: str, number: int, *jobs: str, **record: object) -> Path:
    """Make an entry that these jobs have used."""
    folder = service.settings.cache / f"{kind}-{number:016x}"
    folder.mkdir(parents=True)
    defaults = {"settings": {}, "inputs": {}, "digest": f"of {folder.name}"}
    write_json(folder / RECORD, defaults | record)
    for job in jobs:
        note_use(folder, job)
    return folder


def test_what_a_job_uses_that_waits_or_runs_stays(service: Service) -> None:
    waiting, running, ended = (service.store.create({}) for _ in range(3))
    service.store.change(waiting.id, expect={"queued"}, config={"seed": 0})
    service.store.change(running.id, expect={"queued"}, status="running", config={"seed": 0})
    service.store.change(ended.id, expect={"queued"}, status="canceled")
    kept = [
        entry(service, "base", 1, waiting.id, ended.id), entry(service, "encode", 2, running.id)
    ]  # fmt: skip
    gone = [entry(service, "base", 3, ended.id), entry(service, "encode", 4)]
    use = CacheUse(service.store, list_entries(service.settings.cache))
    users = {each.folder: use.jobs_of(each) for each in list_entries(service.settings.cache)}
    assert [job.id for job in users[kept[0]]] == [waiting.id]
    pruned = prune_cache(service.settings, service.store)
    assert pruned is not None and {each.folder for each in pruned.entries} == set(gone)
    assert all(folder.exists() for folder in kept)


def test_a_job_without_a_plan_keeps_what_was_made_of_its_dataset(service: Service) -> None:
    service.store.create({"data": {"dataset": "faces"}})
    prepared = entry(service, "prepare", 1, settings={"data": {"dataset": "faces"}})
    base = entry(service, "base", 2, inputs={"prepare": f"of {prepared.name}"})
    tuned = entry(service, "finetune", 3, inputs={"base": f"of {base.name}"})
    other = entry(service, "prepare", 4, settings={"data": {"dataset": "digits"}})
    prune_cache(service.settings, service.store)
    assert prepared.exists() and base.exists() and tuned.exists() and not other.exists()


def test_deleting_a_job_never_removes_an_entry_that_another_uses(service: Service) -> None:
    ended, running = service.store.create({}), service.store.create({})
    service.store.change(ended.id, expect={"queued"}, status="canceled")
    service.store.change(running.id, expect={"queued"}, status="running", config={})
    shared = entry(service, "base", 1, ended.id, running.id)
    delete_job(service, ended.id)
    clean(service)
    assert shared.exists() and service.store.get(ended.id) is None
    service.store.change(running.id, expect={"running"}, status="failed")
    clean(service)
    assert not shared.exists(), "nobody uses it any more"


def test_without_a_cap_the_cache_goes_only_where_its_disk_is_full(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(service.settings, cache_keep_bytes=None, disk_floor_bytes=10**9)

    def disk(total: float, free: float) -> None:
        usage = type("Usage", (), {"total": total, "free": free})
        monkeypatch.setattr(cache_use.shutil, "disk_usage", lambda _: usage)

    disk(1e12, 30e9)
    assert keep_bytes(settings, 50e9) == 50e9
    disk(1e12, 12e9)  # 20 GB are to be free
    assert keep_bytes(settings, 50e9) == 42e9
    disk(10e9, 1e9)  # four times the floor
    assert keep_bytes(settings, 2e9) == 0
    assert keep_bytes(service.settings, 50e9) == 0, "the cap of the settings"


def test_no_cache_is_nothing_to_prune(service: Service) -> None:
    assert prune_cache(service.settings, service.store) is None
