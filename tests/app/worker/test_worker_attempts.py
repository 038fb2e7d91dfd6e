"""Deaths in a row, and what counts as having got somewhere."""

import os
from pathlib import Path

from app.worker.attempts import FILE, count_death, forget, marks_of
from distillery.files import read_json


def die(folder: Path, key: str = "base", *, got_somewhere: bool = False) -> int:
    return count_death(folder, key, "killed by SIGKILL", got_somewhere=got_somewhere)


def test_deaths_are_counted_in_a_row_for_each_stage(tmp_path: Path) -> None:
    assert [die(tmp_path), die(tmp_path), die(tmp_path, "finetune-0003")] == [1, 2, 1]
    assert die(tmp_path, got_somewhere=True) == 0
    assert die(tmp_path) == 1
    assert read_json(tmp_path / FILE)["base"] == {"deaths": 1, "last": "killed by SIGKILL"}


def test_a_stage_that_is_done_begins_at_none(tmp_path: Path) -> None:
    forget(tmp_path, "base")
    assert not (tmp_path / FILE).exists()
    die(tmp_path)
    die(tmp_path, "score")
    forget(tmp_path, "base")
    assert list(read_json(tmp_path / FILE)) == ["score"]


def test_marks_change_with_checkpoints_and_parts_of_this_stage_alone(tmp_path: Path) -> None:
    work = tmp_path / "base-0123.partial"
    assert marks_of(None) == marks_of(work) == {}
    for folder in (work, tmp_path / "base-0123.part-0001", tmp_path / "base-4567.partial"):
        folder.mkdir()
        (folder / "clusters.safetensors").write_text("written anew by each attempt")
    assert marks_of(work) == {}
    state = work / "checkpoint-state.safetensors"
    state.write_text("step 10")
    first = marks_of(work)
    assert list(first) == [str(state)]
    os.utime(state, ns=(0, 1))  # written again, with the same size
    second = marks_of(work)
    assert first != second
    (tmp_path / "base-4567.partial" / "checkpoint-state.safetensors").write_text("another job's")
    assert marks_of(work) == second
    (tmp_path / "base-0123.part-0001" / "stage.json").write_text("a part is complete")
    assert len(marks_of(work)) == 2
