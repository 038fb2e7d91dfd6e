"""Every stage of a real digits job ends soon after a cancel, and goes on afterwards."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child_helpers import ROOT, FakeHooks

from app.settings import child_environment
from app.worker.spare import Children
from app.worker.supervise import Limits, run_stage_process
from app.worker.tasks import PLAN, StageOutcome, StageTask
from generator.stage_names import STAGE_NAMES

LIMIT_S, CROWDED_LIMIT_S = 5.0, 30.0
"""On a machine with time for it; and where others compute on all cores, which says nothing."""
REQUEST: dict[str, Any] = {
    "images_per_class": 10, "base": {"reference": "pixel", "pretrain": {"num_steps": 300}},
    "finetune": {"num_steps": 100}, "refine": {"num_steps": 40}, "evaluate": {"num_seeds": 1},
}  # fmt: skip
"""Of the real sizes; what has checkpoints has fewer steps of them."""


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children(child_environment() | {"PYTHONPATH": str(ROOT)}, spare_delay_s=0.0) as made:
        made.prepare()
        yield made


def run(
    folder: Path, stage: str, children: Children, is_time: Callable[[float, float], bool] | None
) -> tuple[StageOutcome, float]:
    """Run a stage, and say how long it went on after it was to stop.

    `is_time` gets the seconds since the start, and since the first report (below 0 before it).
    """
    started, asked = time.monotonic(), 0.0

    def cancel(hooks: FakeHooks) -> bool:
        nonlocal asked
        now = time.monotonic()
        reported_s = now - hooks.began_at if hooks.began_at else -1.0
        if is_time is not None and not asked and is_time(now - started, reported_s):
            asked = now
        return asked > 0

    task = StageTask(
        job_id="job_1", folder=folder / "job", cache=folder / "cache", stage=stage, request=REQUEST
    )
    hooks = FakeHooks(cancel=cancel)
    out = run_stage_process(task, hooks, children=children, limits=Limits(ask_s=0.05))
    return out, time.monotonic() - asked if asked else 0.0


@pytest.mark.slow
def test_every_stage_of_a_digits_job_ends_soon_after_a_cancel(
    children: Children, tmp_path: Path
) -> None:
    moments: dict[str, Callable[[float, float], bool]] = {
        "before its first report": lambda started, _: started > 0.2,
        "while it reports": lambda _, reported: reported > 1.0,
    }
    took: dict[tuple[str, str], float] = {}
    assert run(tmp_path, PLAN, children, None)[0].kind == "done"
    for stage in STAGE_NAMES:
        for name, is_time in moments.items():
            out, seconds = run(tmp_path, stage, children, is_time)
            assert out.kind in ("canceled", "done"), out.error
            if out.kind == "canceled":
                took[stage, name] = round(seconds, 1)
        assert run(tmp_path, stage, children, None)[0].kind == "done"
    is_crowded = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    assert max(took.values()) < (CROWDED_LIMIT_S if is_crowded else LIMIT_S), took
    assert {"base", "finetune", "refine"} <= {stage for stage, _ in took}, took
