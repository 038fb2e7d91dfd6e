"""Real children at real stages of a tiny job on digits."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child_helpers import ROOT, FakeHooks, has_begun
from filelock import FileLock
from PIL import Image

from app.settings import child_environment
from app.worker.previews import Previews
from app.worker.spare import Children
from app.worker.supervise import Limits, run_stage_process
from app.worker.tasks import PLAN, StageOutcome, StageTask
from distillery.files import read_json
from distillery.progress import ignore_progress
from distillery.tensorfile import write_tensors
from generator.one_stage import work_folder
from generator.pipeline import run_job
from generator.stage import WAITING
from generator.stage_names import STAGE_NAMES

NETWORK = "convnet-d1-w8"
REQUEST: dict[str, Any] = {
    "preset": "smoke", "images_per_class": 2, "num_threads": 1,
    "base": {"reference": "pixel", "pretrain": {"num_steps": 300, "warmup_steps": 2,
                                                "batch_size": 8}},
    "finetune": {"num_steps": 20, "batch_size": 8, "guard_interval": 0, "classes_per_group": 5},
    "generate": {"num_steps": 2, "batch_size": 8, "guidance_scale": 1.0},
    "proxy": {"num_steps": 15, "network": NETWORK},
    "refine": {"num_steps": 6, "steps_per_proxy": 3, "proxy_steps": 4, "reals_per_class": 8},
    "label": {"num_steps": 10},
    "evaluate": {"student": {"network": NETWORK, "num_steps": 5}},
}  # fmt: skip
"""Two groups of five classes."""


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    environment = child_environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with Children(environment, spare_delay_s=0.0) as made:
        made.prepare()
        yield made


def task_of(folder: Path, stage: str, **fields: Any) -> StageTask:
    values = {
        "job_id": "job_1", "folder": folder / "job", "cache": folder / "cache", "stage": stage,
        "request": REQUEST,
    }  # fmt: skip
    return StageTask(**{**values, **fields})


def run(task: StageTask, children: Children, hooks: FakeHooks | None = None) -> StageOutcome:
    limits = Limits(ask_s=0.05)
    return run_stage_process(task, hooks or FakeHooks(), children=children, limits=limits)


def test_plan_prepare_and_a_base_that_is_canceled_and_waited_for(
    children: Children, tmp_path: Path
) -> None:
    planned = run(task_of(tmp_path, PLAN), children)
    assert planned.kind == "done", planned.error
    assert planned.facts["config"]["base"]["reference"] == "pixel"
    assert planned.facts["num_parts"] == {"finetune": 2, "generate": 3}
    assert set(read_json(tmp_path / "job" / "estimate.json")) == set(STAGE_NAMES)
    assert run(task_of(tmp_path, PLAN), children).facts == planned.facts  # it is made once
    resting = children._resting
    assert resting is not None  # the name of a dataset is no file of the place it was started in
    assert Path(f"/proc/{resting.process.pid}/cwd").resolve() == (tmp_path / "job").resolve()

    prepared = run(task_of(tmp_path, "prepare"), children)
    assert (prepared.facts["name"], prepared.facts["cached"]) == ("prepare", False)

    hooks = FakeHooks(cancel=has_begun)
    assert run(task_of(tmp_path, "base"), children, hooks).kind == "canceled"
    assert time.monotonic() - hooks.asked_at < 5
    assert {report["phase"] for report in hooks.reports} == {"base"}
    job = read_json(tmp_path / "job" / "job.json")
    work = work_folder(
        tmp_path / "job", job, "base", cache=tmp_path / "cache", on_progress=ignore_progress
    )
    assert (work / "checkpoint-pretrain.safetensors").exists()

    # behind another job that does the same, the wait is told and can be canceled
    hooks = FakeHooks(cancel=has_begun)
    with FileLock(work.with_name(f".{work.name.removesuffix('.partial')}.lock")):
        assert run(task_of(tmp_path, "base"), children, hooks).kind == "canceled"
    assert hooks.reports[0]["message"] == WAITING
    log = (tmp_path / "job" / "job.log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in log][-2:] == [
        "INFO app.worker: base begins", "INFO app.worker: base was stopped: stopped"
    ]  # fmt: skip


@pytest.mark.slow
def test_a_request_that_cannot_be_met_fails_with_its_code(
    children: Children, tmp_path: Path
) -> None:
    task = task_of(tmp_path, PLAN, request=REQUEST | {"images_per_class": 500})
    out = run(task, children)
    assert out.kind == "failed" and out.error is not None
    assert (out.error["code"], out.error["phase"]) == ("dataset_unsupported", PLAN)
    assert "500 images per class" in out.error["message"]
    assert "plan failed (dataset_unsupported)" in out.error["log_tail"]


DOOMED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time\\n"
    "from app.worker.child import die_with_parent\\n"
    "die_with_parent()\\nprint(1, flush=True)\\ntime.sleep(60)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a wish that only Linux grants")
def test_the_kernel_ends_a_child_that_does_not_listen() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", DOOMED], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.02)


def test_the_grid_of_samples_fills_in(tmp_path: Path) -> None:
    told: list[dict] = []
    previews = Previews(task_of(tmp_path, "generate"), lambda data: told.append(dict(data)))
    previews._classes, previews._next = ("zero", "one"), 0.0
    previews.folder = tmp_path / "generate-0123.partial"
    previews.tick()
    assert told == []  # nothing there
    previews._next = 0.0
    (tmp_path / "job").mkdir()
    for part, name in (("0001", "pool"), ("0000", "pool"), ("0002", "plain")):
        folder = tmp_path / f"generate-0123.part-{part}"
        folder.mkdir()
        batch = {
            "images": np.full((3, 1, 8, 8), 50, np.uint8), "labels": np.array([0, 0, 1], np.int64),
            "seeds": np.zeros(3, np.int64),
        }  # fmt: skip
        write_tensors(folder / f"checkpoint-{name}-00000.safetensors", batch)
    previews.tick()
    previews.tick()  # too early for another one
    assert len(told) == 1 and told[0]["images"] == 6  # not those of the control
    assert told[0]["url"].startswith("/jobs/job_1/files/previews/samples.png?v=")
    with Image.open(tmp_path / "job" / "previews" / "samples.png") as picture:
        assert picture.format == "PNG"
    previews._next = 0.0
    previews.tick()
    assert len(told) == 1  # nothing new


class Butcher(FakeHooks):
    """Kills the child the first time that a stage reports."""

    def __init__(self, children: Children) -> None:
        super().__init__()
        self._children, self.victims = children, set[str]()

    def on_progress(self, progress: Any) -> None:
        super().on_progress(progress)
        name = progress["phase"]
        if name not in self.victims:
            self.victims.add(name)
            for pid in _children_of(os.getpid()):
                if pid != self.spare_pid():
                    os.kill(pid, signal.SIGKILL)

    def spare_pid(self) -> int:
        spare = self._children._spare
        return spare.result().process.pid if spare is not None else 0


def _children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.mark.slow
def test_killed_in_every_stage_and_with_parallel_groups_the_bundle_is_the_same(
    children: Children, tmp_path: Path
) -> None:
    butcher = Butcher(children)
    out = run(task_of(tmp_path, PLAN), children)
    parts = out.facts["num_parts"]
    for name in STAGE_NAMES:
        workers = [
            threading.Thread(
                target=run, args=(task_of(tmp_path, name, group=number), children, FakeHooks())
            )
            for number in range(parts.get(name, 0))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        out = run(task_of(tmp_path, name), children, butcher)
        assert out.kind == "done", out.error
    assert butcher.victims >= {"prepare", "base", "score", "refine", "label", "evaluate"}
    assert {data["name"] for kind, data in butcher.events if kind == "preview"} == {
        "samples", "chosen", "refined"
    }  # fmt: skip
    job = read_json(tmp_path / "job" / "job.json")
    (tmp_path / "plain").mkdir()
    plain = run_job(
        tmp_path / "plain", job, cache=tmp_path / "own-cache", on_progress=ignore_progress
    )
    result = out.facts["result"]
    assert result["content_digest"] == plain.content_digest
    assert result["bundle_size_bytes"] > 0 and 0 <= result["accuracy"] <= 1
    assert {"name", "label", "accuracy", "cluster_min"} == set(result["controls"][0])
