"""`distillery cache` on a terminal and in scripts."""

import json
from pathlib import Path

import pytest

from app.cli.main import run_command
from app.jobs.service import open_service
from app.settings import read_settings
from distillery.files import write_json
from generator.entries import RECORD, note_use


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTILLERY_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("DISTILLERY_DATABASE_URL", raising=False)
    return tmp_path / "cache"


def entry(cache: Path, number: int, job: str = "") -> Path:
    folder = cache / f"base-{number:016x}"
    folder.mkdir(parents=True)
    write_json(folder / RECORD, {"settings": {}, "inputs": {}, "digest": str(number)})
    (folder / "weights").write_bytes(b"x" * 2000)
    note_use(folder, job)
    return folder


def test_an_empty_cache_is_told_and_nothing_is_made(cache: Path, capsys) -> None:
    assert run_command(["cache"]) == 0 and run_command(["cache", "prune"]) == 0
    assert "0 entries, 0 B" in capsys.readouterr().err
    assert not cache.exists() and not (cache.parent / "data").exists()


def test_entries_are_listed_with_the_jobs_that_need_them(cache: Path, capsys) -> None:
    service = open_service(read_settings())
    job = service.store.create({})
    service.store.change(job.id, expect={"queued"}, config={})
    service.close()
    used, free = entry(cache, 1, job.id), entry(cache, 2)
    assert run_command(["cache", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["entries"]}
    assert rows[used.name]["used_by"] == [f"{job.id} (queued)"]
    assert rows[free.name]["used_by"] == [] and rows[free.name]["kind"] == "base"
    assert rows[free.name]["size_bytes"] > 2000 and rows[free.name]["is_complete"]
    assert run_command(["cache"]) == 0
    printed = capsys.readouterr()
    assert job.id in printed.out and "2 entries" in printed.err

    assert run_command(["cache", "prune", "--keep-gb", "0", "--dry-run"]) == 0
    assert "would be removed" in capsys.readouterr().err and free.exists()
    assert run_command(["cache", "prune", "--keep-gb", "0"]) == 0
    assert capsys.readouterr().out.startswith(free.name)
    assert used.exists() and not free.exists()


def test_pruning_without_a_word_removes_no_entry(cache: Path, capsys) -> None:
    folder = entry(cache, 1)
    assert run_command(["cache", "prune"]) == 0 and folder.exists()
    assert run_command(["cache", "prune", "--older-than", "1"]) == 0 and folder.exists()
    assert run_command(["cache", "prune", "--older-than", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["removed"]] == [folder.name] and not folder.exists()


def test_bad_limits_are_one_sentence(cache: Path, capsys) -> None:
    assert run_command(["cache", "prune", "--keep-gb", "-1"]) == 2
    assert "--keep-gb" in capsys.readouterr().err
