"""The cache: entries are listed with their use, and pruned without taking one from its user."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distillery.files import write_json
from distillery.progress import ignore_progress
from generator import cache as cache_module
from generator.cache import list_entries, prune
from generator.config import DistillConfig
from generator.entries import RECORD, lock_of, note_use, take, use_of
from generator.stage import Context, Finished, Stage, StageOutput, run_stage

DAY = 24 * 3600.0


def write(context: Context) -> StageOutput:
    (context.folder / "data.bin").write_bytes(b"x" * 1000)
    return StageOutput("wrote", {"seed": context.config.seed})


STAGE = Stage("encode", 1, (), lambda config: {"seed": config.seed}, write, is_shared=True)


def make(root: Path, seed: int, job: str = "", stage: Stage = STAGE) -> Finished:
    config = DistillConfig(seed=seed)
    return run_stage(stage, config, {}, root=root, on_progress=ignore_progress, used_by=job)


def aged(folder: Path, days: float) -> Path:
    """Make an entry's last use an old one."""
    then = time.time() - days * DAY
    for path in (use_of(folder), *folder.rglob("*"), folder):
        if path.exists():
            os.utime(path, (then, then))
    return folder


def names(entries: Any) -> list[str]:
    return [entry.folder.name for entry in entries]


def pruned(root: Path, **options: Any) -> list[str]:
    return names(prune(root, list_entries(root), **{"is_used": lambda _: False, **options}).entries)


def test_the_list_tells_kind_size_use_and_jobs(tmp_path: Path) -> None:
    old = aged(make(tmp_path, 0, "job_a").folder, 3)
    new = make(tmp_path, 1, "job_a")
    make(tmp_path, 1, "job_b")
    (tmp_path / "error.log").write_text("not an entry")
    first, second = list_entries(tmp_path)
    assert (first.folder, first.kind, first.jobs, first.is_complete) == (
        old, "encode", ("job_a",), True,
    )  # fmt: skip
    assert 1000 < first.size_bytes < 10_000 and not first.is_held
    assert 2.9 * DAY < time.time() - first.last_use < 3.1 * DAY
    assert second.jobs == ("job_a", "job_b") and second.is_held, "`new` still lives"
    del new
    assert not list_entries(tmp_path)[1].is_held


def test_using_an_entry_makes_it_the_last_to_go(tmp_path: Path) -> None:
    first, second = (aged(make(tmp_path, seed).folder, 5 - seed) for seed in (0, 1))
    make(tmp_path, 0)
    size = sum(entry.size_bytes for entry in list_entries(tmp_path))
    assert pruned(tmp_path, keep_bytes=size - 1) == [second.name]
    assert first.exists() and sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [first.name, use_of(first).name, lock_of(first).name]
    )


def test_a_removed_entry_is_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path, 0).folder
    assert pruned(tmp_path, older_than_s=0) == [folder.name]
    assert list(tmp_path.iterdir()) == []
    again = make(tmp_path, 0)
    assert not again.was_cached and (again.folder / "data.bin").exists()


def test_what_a_job_or_a_process_uses_stays(tmp_path: Path) -> None:
    held = make(tmp_path, 0)
    kept = make(tmp_path, 1).folder
    gone = make(tmp_path, 2).folder
    options = {"keep_bytes": 0.0, "is_used": lambda entry: entry.folder == kept}
    assert pruned(tmp_path, is_dry_run=True, **options) == [gone.name] and gone.exists()
    assert pruned(tmp_path, **options) == [gone.name]
    assert held.folder.exists() and kept.exists() and not gone.exists()


def test_another_process_that_reads_an_entry_keeps_it_and_frees_it_by_dying(tmp_path: Path) -> None:
    folder = make(tmp_path, 0).folder
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom generator.entries import note_use\n"
        "hold = note_use(Path(sys.argv[1]), 'job_x')\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert reader.stdout is not None and reader.stdout.readline() == "held\n"
    assert pruned(tmp_path, keep_bytes=0) == [] and folder.exists()
    reader.kill()
    reader.communicate()
    assert pruned(tmp_path, keep_bytes=0) == [folder.name]


def test_an_entry_used_after_it_was_chosen_stays(tmp_path: Path) -> None:
    folder = aged(make(tmp_path, 0).folder, 9)

    def used_meanwhile(_: Any) -> bool:
        note_use(folder, "job_new")  # and let go of: only the note says so
        return False

    assert pruned(tmp_path, keep_bytes=0, is_used=used_meanwhile) == []
    listed = list_entries(tmp_path)
    make(tmp_path, 0, "job_newer")  # by a job that nobody knew when the users were looked up
    assert not prune(tmp_path, listed, is_used=lambda _: False, keep_bytes=0).entries
    assert (folder / RECORD).exists()


def test_a_kill_between_rename_and_delete_leaves_what_the_next_pruning_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path, 0).folder

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache_module.shutil, "rmtree", killed)
        prune(tmp_path, list_entries(tmp_path), is_used=lambda _: False, keep_bytes=0)
    assert not folder.exists() and list_entries(tmp_path) == []
    assert [".removed-" in path.name for path in tmp_path.iterdir()] == [True]
    again = make(tmp_path, 0)
    assert not again.was_cached, "the leftover is no entry"
    assert prune(tmp_path, list_entries(tmp_path), is_used=lambda _: False).num_leftovers == 1
    assert again.folder.exists() and not list(tmp_path.glob(".*.removed-*"))


def stop(context: Context) -> StageOutput:
    part = context.part(0, lambda part: write_json(part.folder / "done.json", 1))
    assert part.is_dir()
    raise KeyboardInterrupt


def test_unfinished_work_goes_after_a_week_and_never_while_it_is_worked_on(tmp_path: Path) -> None:
    stopped = Stage("finetune", 1, (), lambda config: {"seed": config.seed}, stop, is_shared=True)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, 0, "job_a", stage=stopped)
    (entry,) = list_entries(tmp_path)
    assert not entry.is_complete and [path.suffix for path in entry.folders] == [
        ".partial", ".part-0000",
    ]  # fmt: skip
    assert pruned(tmp_path) == [], "an interrupted run can be taken up again"
    for folder in entry.folders:
        aged(folder, 8)
    aged(entry.folder, 8)
    for path in (lock_of(entry.folder), lock_of(entry.folders[1])):
        hold = take(path)
        assert hold is not None and pruned(tmp_path) == [], f"{path.name} is held"
        hold.release()
    assert pruned(tmp_path) == [entry.folder.name]
    assert list(tmp_path.iterdir()) == []


def test_locks_of_nothing_and_evaluations_are_seen_to(tmp_path: Path) -> None:
    students = tmp_path / "evaluations" / "0123456789abcdef"
    students.mkdir(parents=True)
    (students / "students.json").write_text("{}")
    stale = tmp_path / ".base-0123456789abcdef.part-0003.lock"
    stale.touch()
    others = [tmp_path / ".lock", tmp_path / "evaluations" / ".hidden"]
    for other in others:
        other.touch()
    assert [entry.kind for entry in list_entries(tmp_path)] == ["evaluation"]
    assert (
        prune(
            tmp_path, list_entries(tmp_path), is_used=lambda _: False, is_dry_run=True
        ).num_leftovers
        == 1
    )
    assert stale.exists()
    assert prune(tmp_path, list_entries(tmp_path), is_used=lambda _: False).num_leftovers == 1
    assert pruned(tmp_path, older_than_s=30) == [] and students.exists()
    assert pruned(tmp_path, keep_bytes=0) == [students.name]
    assert not stale.exists() and not students.exists() and all(other.exists() for other in others)


def test_pruning_beside_use_never_takes_an_entry_from_its_user(tmp_path: Path) -> None:
    end, failures = threading.Event(), []

    def use(seed: int) -> None:
        while not end.is_set():
            found = make(tmp_path, seed % 2)
            time.sleep(0.001)
            if not (found.folder / "data.bin").exists():
                failures.append(found.folder)
            del found  # and with it the hold
            time.sleep(0.005)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    stop_at, count = time.monotonic() + 2.0, 0
    try:
        while time.monotonic() < stop_at:
            count += len(pruned(tmp_path, keep_bytes=0))
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert failures == [] and count > 0


def test_a_cache_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch: Any) -> None:
    folder = make(tmp_path, 0).folder

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("generator.entries.os.open", refuse)
    assert note_use(folder) is None and make(tmp_path, 0).was_cached
