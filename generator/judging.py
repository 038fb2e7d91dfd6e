"""Many students, several at a time, each one's figures kept as they come.

Threads, because a student of tiny images uses one core: as many as cores allow beside the threads
of a torch operation. Each student draws from its own seed, so their number changes no figure.
"""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from distillery.errors import Cancelled
from distillery.evaluation.harness import ImageSet, TestBench, judge
from distillery.files import write_json
from distillery.progress import Progress
from distillery.seeds import derive_seed
from generator.config import DistillConfig
from generator.controls import LABELS
from generator.stage import Context
from generator.stages.common import num_workers

MakeSet = Callable[[int], ImageSet]
"""Number of the student -> the set it learns from; the same for all but random draws."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One student."""

    protocol: str
    name: str
    number: int
    make: MakeSet

    @property
    def key(self) -> str:
        return f"{self.protocol}/{self.name}/{self.number}"


def judge_all(
    context: Context, bench: TestBench, sets: Mapping[str, Mapping[str, MakeSet]]
) -> dict[tuple[str, str], list[dict]]:
    """Return the figures of every student by (protocol, name of the set), in the order of seeds.

    Args:
        context: Of the running stage; students that it has finished are not trained again.
        bench: The test images.
        sets: Sets by name, by protocol.
    """
    seeds = range(context.config.evaluate.num_seeds)
    tasks = [
        _Task(protocol, name, number, make)
        for protocol, named in sets.items()
        for name, make in named.items()
        for number in seeds
    ]
    path = context.folder / "checkpoint-judged.json"
    runs: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    open_tasks = [task for task in tasks if task.key not in runs]
    stop = threading.Event()
    with ThreadPoolExecutor(num_workers(context.config)) as pool:
        try:
            futures = [
                pool.submit(_judge, task, context.config, bench, stop) for task in open_tasks
            ]
            for task, future in zip(open_tasks, futures, strict=True):
                message = f"students of {LABELS[task.name]}"
                while not wait([future], timeout=1.0).done:  # a cancel need not wait for a student
                    context.on_progress(Progress("evaluate", len(runs), len(tasks), message))
                runs[task.key] = future.result()
                write_json(path, runs)
                context.on_progress(Progress("evaluate", len(runs), len(tasks), message))
        except BaseException:
            stop.set()  # the others end at their next step
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {
        (protocol, name): [runs[f"{protocol}/{name}/{number}"] for number in seeds]
        for protocol, named in sets.items()
        for name in named
    }


def _judge(task: _Task, config: DistillConfig, bench: TestBench, stop: threading.Event) -> dict:
    """Train and measure one student."""

    def on_step(_: int) -> None:
        if stop.is_set():
            raise Cancelled

    # The same seed for every set: students differ in their images only
    seed = derive_seed(config.seed, "student", task.number)
    return judge(task.make(task.number), bench, config.evaluate.student, seed=seed, on_step=on_step)
