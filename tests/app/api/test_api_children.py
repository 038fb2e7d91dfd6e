"""The processes that look at datasets and make estimates: how many, how long, how large."""

import json
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.api.children import MAX_WAITING, Children
from app.api.problems import Problem


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lets the inspections end; until then each lasts."""
    gate = threading.Event()

    def run(_: Children, task: dict[str, int], timeout_s: float) -> dict[str, int]:
        assert gate.wait(10)
        return task

    monkeypatch.setattr(Children, "_run", run)
    return gate


def test_a_few_inspections_wait_and_the_rest_is_refused_at_once(gate: threading.Event) -> None:
    children, refused = Children({}, at_once=2), []
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(children.ask, {"n": n}) for n in range(40)]
        end = time.monotonic() + 5
        while sum(each.done() for each in asked) < 40 - 2 - MAX_WAITING:
            assert time.monotonic() < end, "they wait and hold the threads of all other requests"
            time.sleep(0.01)
        gate.set()
        for each in asked:
            error = each.exception(10)
            if error is not None:
                refused.append(error)
    assert len(refused) == 40 - 2 - MAX_WAITING
    assert all(isinstance(error, Problem) and error.status_code == 503 for error in refused)
    assert refused[0].headers == {"Retry-After": "10"}
    assert children.ask({"n": 1}) == {"n": 1}  # nothing is left taken


def test_an_upload_waits_where_others_are_refused(gate: threading.Event) -> None:
    children = Children({}, at_once=1)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(children.ask, {"n": 0})
        while children._free.acquire(blocking=False):
            children._free.release()
            time.sleep(0.01)
        with pytest.raises(Problem):
            children.ask({"n": 1}, max_waiting=0)
        waiting = pool.submit(children.ask, {"n": 2}, max_waiting=1)
        gate.set()
        assert first.result(10) == {"n": 0} and waiting.result(10) == {"n": 2}


PROBE = """
import importlib.util, resource
from app.api import inspect as child
names = ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_CORE")
def look(task):
    if task["kind"] == "dataset":
        bytearray(5 << 30)
    return {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
child.TASKS.update(dataset=look, estimate=look)
if HIDDEN:
    importlib.util.find_spec = lambda name: None
child.main()
"""


@pytest.mark.parametrize("has_torch", [True, False])
def test_every_inspection_has_limits(has_torch: bool) -> None:
    code = PROBE.replace("HIDDEN", str(not has_torch))

    def answer_to(kind: str) -> dict[str, Any]:
        command, task = [sys.executable, "-c", code], json.dumps({"kind": kind})
        done = subprocess.run(command, input=task, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    limits = answer_to("estimate")
    name, size = ("RLIMIT_DATA", 16 << 30) if has_torch else ("RLIMIT_AS", 4 << 30)
    assert limits[name] == size and limits["RLIMIT_CPU"] == 300 and limits["RLIMIT_CORE"] == 0
    if has_torch:
        assert limits["RLIMIT_AS"] == resource.getrlimit(resource.RLIMIT_AS)[1]
    problem = answer_to("dataset")["problem"]
    assert problem["code"] == "inspection_failed" and "too much memory" in problem["detail"]
