"""What the tests of the pipeline build on: a job on digits that takes a few seconds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.machine import Machine
from distillery.progress import Progress, ignore_progress
from generator.pipeline import JobResult, run_job, start_job
from generator.plan import make_plan, merge
from generator.stage import Finished

MACHINE = Machine(num_cores=1, memory_bytes=2**33, gpu=None, gpu_memory_bytes=0)
NETWORK = "convnet-d1-w8"
REQUEST: dict[str, Any] = {
    "preset": "smoke",
    "images_per_class": 2,
    "num_threads": 1,
    "base": {
        "reference": "pixel",
        "pretrain": {"num_steps": 25, "warmup_steps": 2, "batch_size": 8},
    },
    "finetune": {"num_steps": 25, "batch_size": 12, "guard_interval": 0},
    "generate": {"num_steps": 2, "batch_size": 16, "guidance_scale": 1.0},
    "proxy": {"num_steps": 15, "network": NETWORK},
    "refine": {"num_steps": 6, "steps_per_proxy": 3, "proxy_steps": 4, "reals_per_class": 8},
    "label": {"num_steps": 10},
    "evaluate": {"student": {"network": NETWORK, "num_steps": 5}},
}
"""Every stage, on less than a sliver."""


@dataclass(frozen=True)
class SmokeJob:
    folder: Path
    cache: Path
    job: dict[str, Any]
    result: JobResult

    def stage(self, name: str) -> Finished:
        return next(stage for stage in self.result.stages if stage.name == name)


def new_job(folder: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    """Plan a job with these changes to `REQUEST` and write its folder."""
    request = merge(REQUEST, changes)
    return start_job(folder, request, make_plan(request, cache=cache, machine=MACHINE))


def finish(
    folder: Path,
    job: Mapping[str, Any],
    cache: Path,
    *,
    on_progress: Callable[[Progress], None] = ignore_progress,
    on_stage: Callable[[Finished], None] = lambda _: None,
) -> JobResult:
    """Run a job with a checkpoint at every occasion."""
    return run_job(
        folder, job, cache=cache, on_progress=on_progress, on_stage=on_stage,
        checkpoint_interval_s=0,
    )  # fmt: skip
