"""What the page says of times, sizes, phases and jobs; no browser, no database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.jobs.phases import PHASES as JOB_PHASES
from app.jobs.phases import new_phases
from app.jobs.records import STATUSES as JOB_STATUSES
from app.jobs.records import JobRecord
from app.page import text
from app.page.phases import PHASES, steps
from app.page.view import STATUSES, job_view, queue_text
from app.settings import read_settings

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SETTINGS = read_settings({"HOME": "/home/nobody"})


def make_job(**fields: Any) -> JobRecord:
    values: dict[str, Any] = {
        "id": "job_1", "revision": 3, "status": "running", "phase": "finetune",
        "created_at": NOW - timedelta(minutes=5), "started_at": NOW - timedelta(seconds=90),
        "finished_at": None, "request": {}, "config": None, "decisions": [], "name": None,
        "metadata": {}, "priority": 5, "ticket": 1, "dataset": "digits", "images_per_class": 10,
        "preset": "default", "progress": None, "phases": new_phases(), "worker": None,
        "result": None, "error": None, "warnings": [], "attempt": 1,
    }  # fmt: skip
    return JobRecord(**{**values, **fields})


def plain(words: str) -> str:
    return words.replace(text.THIN, " ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"),
     (60, "1 min"), (200, "3 min 20 s"), (3599.7, "1 h"), (7800, "2 h 10 min"),
     (90_000, "1 d 1 h"), (-3, "0.0 s")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert plain(text.duration(seconds)) == words


def test_what_is_left_is_said_no_finer_than_it_is_known() -> None:
    found = [plain(text.remaining(seconds)) for seconds in (None, 2, 33, 100, 5000)]
    assert found == [
        "", "a few seconds left", "about 35 s left", "about 2 min left", "about 1.4 h left"
    ]  # fmt: skip


def test_sizes() -> None:
    found = [plain(text.size(number)) for number in (0, 999, 1000, 12_960, 9.99e6, 3e12)]
    assert found == ["0 B", "999 B", "1.0 kB", "13 kB", "10 MB", "3.0 TB"]


def test_how_long_ago() -> None:
    moments = [NOW - timedelta(seconds=s) for s in (3, 46, 3500, 7200, 100_000, 300_000, 9e6)]
    assert [plain(text.ago(moment, NOW)) for moment in moments] == [
        "just now", "1 min ago", "58 min ago", "2 h ago", "yesterday", "3 days ago", "9 Aug 2026"
    ]  # fmt: skip


def test_phases_are_those_of_a_job() -> None:
    assert tuple(PHASES) == JOB_PHASES


def test_every_status_has_a_word() -> None:
    assert tuple(STATUSES) == JOB_STATUSES


def test_the_phase_of_a_running_job_runs_before_its_row_says_so() -> None:
    found = {step.name: step.status for step in steps(new_phases(), "running", "base")}
    assert found["base"] == "running"
    assert found["finetune"] == "pending"


def test_a_phase_does_not_run_on_after_its_job_failed() -> None:
    rows = [{"name": "finetune", "status": "running"}]
    found = {step.name: step for step in steps(rows, "failed", "finetune")}
    assert (found["finetune"].status, found["finetune"].word) == ("failed", "failed")


def test_phases_that_nobody_knows_are_shown_at_the_end() -> None:
    found = steps([{"name": "new_stage", "status": "succeeded", "seconds": 2.0}], "running", None)
    assert (found[-1].title, found[-1].status) == ("New stage", "succeeded")


@pytest.mark.parametrize(
    ("position", "words"),
    [(None, "waiting for a worker"), (1, "next in the queue"), (4, "3 ahead in the queue")],
)
def test_the_place_in_the_queue(position: int | None, words: str) -> None:
    assert queue_text(position) == words


def test_a_running_job() -> None:
    progress = {"phase": "finetune", "value": 0.4249, "message": "learning", "eta_seconds": 61}
    view = job_view(make_job(progress=progress), SETTINGS, NOW)
    assert (view.percent, view.phase, view.message) == (42, "Fine-tune", "learning")
    assert plain(view.left) == "about 1 min left"
    assert (view.elapsed, view.title, view.facts) == (90.0, "digits, 10 per class", ())


def test_a_phase_that_has_not_reported_says_what_it_is_for() -> None:
    progress = {"phase": "base", "value": 0.2, "message": "learning your images"}
    view = job_view(make_job(progress=progress), SETTINGS, NOW)
    assert view.message == "teaches the base to be representative and diverse"


def test_one_hundred_per_cent_is_for_what_is_done() -> None:
    view = job_view(make_job(progress={"value": 0.9999}), SETTINGS, NOW)
    assert view.percent == 99
    assert job_view(make_job(status="succeeded"), SETTINGS, NOW).percent == 100


def test_paths_of_the_machine_are_not_told() -> None:
    view = job_view(make_job(dataset="/srv/secret/pets.tar.gz"), SETTINGS, NOW)
    assert view.title == "pets, 10 per class"


def test_the_best_control_is_named() -> None:
    controls = [
        {"name": "a", "label": "random", "accuracy": 0.8},
        {"name": "b", "label": "herding", "accuracy": {"mean": 0.95, "std": 0.1}},
        {"name": "c", "label": "broken", "accuracy": None},
    ]
    job = make_job(status="succeeded", result={"accuracy": 0.9, "controls": controls})
    label, accuracy = job_view(job, SETTINGS, NOW).best_control or ("", "")
    assert (label, plain(accuracy)) == ("herding", "95.0 %")
