"""Many trainings: finished ones are kept, a cancel ends all, and one failure is told."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from distillery.errors import Cancelled, JobError, TrainingError
from distillery.evaluation.pool import Trial, run_trials
from distillery.progress import Progress, ignore_progress


def trial(key: str, value: float = 0.0, log: list[str] | None = None) -> Trial:
    def run(on_step: Callable[[int], None]) -> dict:
        if log is not None:
            log.append(key)
        for step in range(3):
            on_step(step + 1)
        return {"accuracy": value}

    return Trial(key, 3, f"student {key}", run)


def run(trials: list[Trial], store: Path, **options: object) -> dict:
    values: dict = {"num_workers": 2, "phase": "evaluate", "on_progress": ignore_progress}
    return run_trials(trials, store=store, **(values | options))


def test_figures_come_back_by_key_in_order_and_are_not_made_twice(tmp_path: Path) -> None:
    store, log = tmp_path / "students.json", []  # type: tuple[Path, list[str]]
    first = run([trial("b", 0.5, log), trial("a", 0.25, log)], store)
    assert list(first) == ["b", "a"] and first["a"] == {"accuracy": 0.25}
    more = run([trial("b", 9.0, log), trial("c", 0.75, log)], store)
    assert more == {"b": {"accuracy": 0.5}, "c": {"accuracy": 0.75}}
    assert sorted(log) == ["a", "b", "c"]
    assert set(json.loads(store.read_text())) == {"a", "b", "c"}


def test_progress_counts_steps_and_what_was_done_before(tmp_path: Path) -> None:
    store = tmp_path / "students.json"
    run([trial("a")], store)
    told: list[Progress] = []
    run([trial("a"), trial("b")], store, on_progress=told.append)
    assert told[-1].step == told[-1].total == 6 and told[-1].phase == "evaluate"


def test_a_cancel_ends_every_student_and_keeps_the_finished(tmp_path: Path) -> None:
    store, started = tmp_path / "students.json", threading.Event()

    def endless(on_step: Callable[[int], None]) -> dict:
        step = 0
        while True:
            started.set()
            on_step(step := step + 1)

    def cancel(progress: Progress) -> None:
        if started.wait(5) and store.exists():
            raise Cancelled

    with pytest.raises(Cancelled):
        run([trial("a"), Trial("b", 10, "", endless)], store, on_progress=cancel)
    assert set(json.loads(store.read_text())) == {"a"}


def test_a_failure_is_raised_and_the_others_end(tmp_path: Path) -> None:
    def fail(_: Callable[[int], None]) -> dict:
        raise TrainingError("a student ended badly")

    with pytest.raises(TrainingError, match="ended badly"):
        run([Trial("a", 1, "", fail), trial("b")], tmp_path / "s.json", num_workers=1)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(JobError, match=r"s\.json is damaged: remove it"):
        run([trial("a")], tmp_path / "s.json")
