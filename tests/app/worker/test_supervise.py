"""The supervisor, with children that do as they are told: reports, stops, deaths, bad hooks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from child_helpers import FAKE, ROOT, FakeHooks, fake_children, has_begun, task_of

from app.worker.link import SILENCE_S
from app.worker.spare import Child, Children
from app.worker.supervise import Limits, run_stage_process, tail_of
from app.worker.tasks import StageOutcome, StageTask
from distillery.files import read_json, write_json
from generator.stage_names import STAGE_NAMES


@pytest.fixture
def children() -> Iterator[Children]:
    with fake_children() as made:
        yield made


def run(
    task: StageTask, hooks: FakeHooks, children: Children, cancel_s: float = 30.0
) -> StageOutcome:
    limits = Limits(cancel_s=cancel_s, ask_s=0.05)
    return run_stage_process(task, hooks, children=children, limits=limits)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that waits to be reaped has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_what_a_child_logs_tells_no_place_of_this_machine(tmp_path: Path) -> None:
    task = task_of(tmp_path, datasets=(tmp_path / "uploads",))
    task.folder.mkdir()
    (task.folder / "job.log").write_text(f"{tmp_path}/uploads/{'0f' * 16}/a.zip {task.cache}/base")
    assert tail_of(task.folder / "job.log", 0, task) == "a.zip the cache/base"


def test_reports_become_the_progress_of_the_job(children: Children, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    write_json(tmp_path / "job" / "estimate.json", dict.fromkeys(STAGE_NAMES, 10.0))
    hooks = FakeHooks()
    out = run(task_of(tmp_path, ["report", 5]), hooks, children)
    assert out.kind == "done" and out.facts["pid"]
    # prepare, base and encode are done, and half of finetune: 3.5 of 10
    assert hooks.reports == [
        {
            "phase": "finetune", "step": 5, "total": 10, "message": "learning",
            "metrics": {"loss": 0.5}, "phase_index": 4, "phases_total": 11, "value": 0.35,
            "eta_seconds": 65.0,
        }
    ]  # fmt: skip


def test_at_most_two_reports_a_second_and_the_last_one_comes(
    children: Children, tmp_path: Path
) -> None:
    hooks = FakeHooks()
    run(task_of(tmp_path, ["steps", 60]), hooks, children)  # 1.2 s
    assert 3 <= len(hooks.reports) <= 5
    assert [hooks.reports[0]["step"], hooks.reports[-1]["step"]] == [0, 59]


def test_events_are_passed_on(children: Children, tmp_path: Path) -> None:
    hooks = FakeHooks()
    event = {"name": "samples", "url": "/x"}
    run(task_of(tmp_path, ["send", "preview", event]), hooks, children)
    assert hooks.events == [("preview", event)]


def test_an_error_ends_the_stage_with_the_end_of_its_log(
    children: Children, tmp_path: Path
) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.log").write_text("of an earlier stage\n")
    error = {"code": "loss_not_finite", "message": "m", "hint": "h", "phase": "finetune",
             "retryable": False}  # fmt: skip
    task = task_of(tmp_path, ["log", "step 3 in FOLDER"], ["send", "error", error])
    out = run(task, FakeHooks(), children)
    assert out == StageOutcome(
        kind="failed", error=error | {"log_tail": "step 3 in the job's folder"}
    )


def test_a_cancel_stops_at_the_next_report(children: Children, tmp_path: Path) -> None:
    hooks = FakeHooks(cancel=has_begun)
    out = run(task_of(tmp_path, ["steps", 500]), hooks, children)
    assert out.kind == "canceled" and (tmp_path / "job" / "stopped").exists()
    assert time.monotonic() - hooks.asked_at < 1.5


def test_a_stage_that_does_not_report_is_stopped_where_it_is(
    children: Children, tmp_path: Path
) -> None:
    hooks = FakeHooks(cancel=has_begun)
    out = run(task_of(tmp_path, ["report", 1], ["hang", 60]), hooks, children)
    assert out.kind == "canceled" and (tmp_path / "job" / "stopped").exists()
    assert 3.0 < time.monotonic() - hooks.asked_at < 5.0


def test_one_whose_reports_are_rare_is_given_the_time_to_the_next(
    children: Children, tmp_path: Path
) -> None:
    """Its state is saved at a report alone, and the last two lay 3 seconds apart."""

    def asks(hooks: FakeHooks) -> bool:  # well after the second report, which would stop it too
        return len(hooks.reports) == 2 and time.monotonic() > hooks.began_at + 3.3

    hooks = FakeHooks(cancel=asks)
    slow = [["report", 1], ["hang", 3.0], ["report", 2], ["hang", 4.2], ["report", 3]]
    assert run(task_of(tmp_path, *slow), hooks, children).kind == "canceled"
    assert [report["step"] for report in hooks.reports] == [1, 2, 3]


def test_one_that_does_not_react_is_killed_at_the_limit(children: Children, tmp_path: Path) -> None:
    hooks = FakeHooks(cancel=has_begun)
    out = run(task_of(tmp_path, ["deaf", 60]), hooks, children, cancel_s=1.0)
    assert out.kind == "canceled" and not (tmp_path / "job" / "stopped").exists()
    assert 0.9 < time.monotonic() - hooks.asked_at < 3
    assert not (tmp_path / "job" / "attempts.json").exists()  # this death was our own wish


def test_a_worker_that_must_stop_lets_go_of_its_stage(children: Children, tmp_path: Path) -> None:
    hooks = FakeHooks(stop=has_begun, cancel=has_begun)
    assert run(task_of(tmp_path, ["steps", 500]), hooks, children).kind == "lost"
    assert (tmp_path / "job" / "stopped").exists()  # its state was saved


def test_a_child_that_dies_is_replaced(children: Children, tmp_path: Path) -> None:
    hooks = FakeHooks()
    out = run(task_of(tmp_path, ["die_once", signal.SIGKILL], ["report", 1]), hooks, children)
    assert out.kind == "done" and len(hooks.reports) == 1
    assert hooks.events == [
        ("log", {"level": "warning", "message": "the process of finetune was killed by SIGKILL; "
                 "it goes on from its last checkpoint"})
    ]  # fmt: skip
    assert read_json(tmp_path / "job" / "attempts.json") == {}  # forgotten: the stage is done


def test_three_deaths_in_a_row_fail_the_stage(children: Children, tmp_path: Path) -> None:
    task = task_of(tmp_path, ["work"], ["log", "so far"], ["die", signal.SIGSEGV])
    out = run(task, FakeHooks(), children)
    assert out.kind == "failed" and out.error is not None
    assert (out.error["code"], out.error["retryable"]) == ("stage_died", True)
    assert out.error["message"] == (
        "the process of finetune died 3 times in a row without a new checkpoint; the last was "
        "killed by SIGSEGV"
    )
    assert out.error["log_tail"] == "so far"
    assert read_json(tmp_path / "job" / "attempts.json") == {}  # a retry begins at none


def test_children_that_cannot_start_fail_the_stage_and_say_where_to_look(tmp_path: Path) -> None:
    with Children({}, command=(sys.executable, "-c", "raise SystemExit(7)")) as children:
        out = run(task_of(tmp_path), FakeHooks(), children)
    assert out.error is not None and out.error["message"] == (
        "no process for finetune could be started, 3 times in a row; the last ended with exit code "
        "7, and the worker's own log says why"
    )


def test_a_death_after_a_new_checkpoint_is_not_counted(children: Children, tmp_path: Path) -> None:
    """It dies for ever, but each time one checkpoint further on: the stage goes on."""
    hooks = FakeHooks(stop=lambda hooks: len(hooks.events) >= 5)
    task = task_of(tmp_path, ["work"], ["checkpoint"], ["die", signal.SIGKILL])
    assert run(task, hooks, children).kind == "lost"  # only because the worker stops
    assert read_json(tmp_path / "job" / "attempts.json")["finetune"]["deaths"] == 0


def test_hooks_that_fail_end_the_child(children: Children, tmp_path: Path) -> None:
    class Broken(FakeHooks):
        def on_progress(self, progress: object) -> None:
            raise ConnectionError("the database is gone")

    started = time.monotonic()
    with pytest.raises(ConnectionError):
        run(task_of(tmp_path, ["steps", 3000]), Broken(), children)
    assert time.monotonic() - started < 10


def test_a_child_goes_on_with_the_next_stage_of_its_job_alone(
    children: Children, tmp_path: Path
) -> None:
    def pid(**fields: object) -> int:
        return run(task_of(tmp_path, **fields), FakeHooks(), children).facts["pid"]

    first = pid()
    assert pid(stage="generate") == first
    assert pid(job_id="job_2") != first and is_gone(first)
    assert pid(job_id="job_2", device="cuda") != pid(job_id="job_2", device="cuda")


def test_parts_that_start_at_once_get_a_child_each(children: Children, tmp_path: Path) -> None:
    children.prepare()
    tasks = [task_of(tmp_path, ["steps", 10], group=number) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        outs = list(pool.map(lambda task: run(task, FakeHooks(), children), tasks))
    assert [out.kind for out in outs] == ["done"] * 3
    assert len({out.facts["pid"] for out in outs}) == 3


def test_a_spare_is_ready_before_it_is_needed(tmp_path: Path) -> None:
    with fake_children(spare_delay_s=0.0) as children:
        children.prepare()
        time.sleep(1.0)
        child = children.take(task_of(tmp_path))
        assert child.receive(0.01) == {"ready": child.process.pid}
        time.sleep(0.5)
        child.process.kill()
        child.close()
        assert children.take(task_of(tmp_path)).receive(3) is not None


def test_a_spare_that_died_is_not_handed_out(tmp_path: Path) -> None:
    with fake_children() as children:
        children.prepare()
        child = children.take(task_of(tmp_path))
        children.give_back(child, task_of(tmp_path))
        child.process.kill()
        child.process.wait()
        assert run(task_of(tmp_path, ["report", 1]), FakeHooks(), children).kind == "done"


def test_children_inherit_the_workers_lock_and_nothing_else(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock, fake_children(keep_open=[lock.fileno()]) as children:
        child = children.take(task_of(tmp_path))
        child.receive(5)
        files = os.listdir(f"/proc/{child.process.pid}/fd")
        assert str(lock.fileno()) in files and len(files) == 5  # and in, out, log, a copy of out
        child.close()


SUPERVISOR = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from child_helpers import FakeHooks, fake_children, task_of
from app.worker.supervise import run_stage_process
class Hooks(FakeHooks):
    def on_progress(self, progress):
        print("begun", flush=True)
with fake_children() as children:
    run_stage_process(task_of(Path({folder!r}), ["send", "log", dict()], ["report", 1],
                              ["hang", 60]), Hooks(), children=children)
"""


def _supervisor(folder: Path) -> tuple[subprocess.Popen, int]:
    """Start a supervisor in a process of its own; returns it and its child once that works."""
    code = SUPERVISOR.format(tests=str(Path(__file__).parent), folder=str(folder))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    path = Path(f"/proc/{process.pid}/task")
    found = [pid for thread in path.iterdir() for pid in (thread / "children").read_text().split()]
    return process, int(found[0])


def _wait_until_gone(pid: int, limit_s: float) -> float:
    started = time.monotonic()
    while not is_gone(pid):
        assert time.monotonic() - started < limit_s, "the child lives on"
        time.sleep(0.01)
    return time.monotonic() - started


def test_a_killed_supervisor_takes_its_child_along(tmp_path: Path) -> None:
    process, child = _supervisor(tmp_path)
    process.kill()
    assert _wait_until_gone(child, 2.0) < 1.0
    process.communicate()
    # the death of a supervisor is never counted
    assert not (tmp_path / "job" / "attempts.json").exists()


def test_a_child_does_not_work_for_a_supervisor_that_hangs(tmp_path: Path) -> None:
    process, child = _supervisor(tmp_path)
    process.send_signal(signal.SIGSTOP)
    assert 1.5 < _wait_until_gone(child, SILENCE_S + 3) < SILENCE_S + 2
    process.kill()
    process.communicate()


def test_a_child_that_was_itself_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    child = Child(FAKE, os.environ | {"PYTHONPATH": str(ROOT)}, ())
    child.begin(task_of(tmp_path, ["report", 1], ["hang", SILENCE_S + 2.0]))
    (tmp_path / "job").mkdir()
    assert "ready" in (child.receive(5) or {}) and "progress" in (child.receive(5) or {})
    child.process.send_signal(signal.SIGSTOP)
    threading.Timer(SILENCE_S + 1.0, child.process.send_signal, [signal.SIGCONT]).start()
    # where it was stopped before its pause, that begins only when it goes on
    assert "done" in (child.receive(2 * SILENCE_S + 8) or {})
    assert child.close() == 0
