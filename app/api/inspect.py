"""The child process that opens datasets and works out estimates: one task in, one answer out.

It reads a JSON task from stdin and writes a JSON answer to stdout. Limits of the system keep a
hostile archive from taking the machine; what users can mend comes back as a problem.
"""

import importlib.util
import json
import logging
import resource
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillery.errors import ConfigError, DataError, DistilleryError, ModelError

MEMORY_BYTES = 4 << 30
"""Of the address space; where torch runs there is none, as CUDA reserves far more than it uses."""
TORCH_MEMORY_BYTES = 16 << 30
"""Of what can be written, where torch times small networks for an estimate."""
MAX_CPU_S = 300
SURVEYED_IMAGES = 64
SHOWN_CLASSES = 100


def main() -> None:
    """Answer the task on stdin."""
    task = json.load(sys.stdin)
    logging.basicConfig(stream=sys.stderr)
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(task["kind"])
    try:
        answer = TASKS[task["kind"]](task)
    except DistilleryError as error:
        answer = {"problem": _problem(error, task)}
    except MemoryError:
        detail = "the inspection needed too much memory"
        answer = {"problem": {"code": "inspection_failed", "detail": detail}}
    except ModuleNotFoundError as error:
        detail = (
            f"looking at datasets needs the package {error.name}, which is not installed here: "
            "the operator adds the extra `api` (or `local`)"
        )
        answer = {"problem": {"code": "inspection_failed", "detail": detail}}
    json.dump(answer, sys.stdout, default=str)


def _problem(error: DistilleryError, task: dict[str, Any]) -> dict[str, str]:
    """Return what a user is told: the sentence, without paths of this machine."""
    text = str(error)
    for folder in task.get("private", ()):
        text = text.replace(folder.rstrip("/") + "/", "")
    code, pointer = "validation_failed", "#"
    if isinstance(error, DataError):
        code, pointer = "dataset_unsupported", "#/dataset"
    elif isinstance(error, ModelError):
        code, pointer = "model_unsupported", "#/base/reference"
    elif not isinstance(error, ConfigError):
        code = "dataset_unsupported"
    return {"code": code, "pointer": pointer, "detail": text}


def _dataset(task: dict[str, Any]) -> dict[str, Any]:
    """Open a dataset, count it and look at some of its images."""
    from distillery.data.config import DataConfig
    from generator.plan import look_at

    look = look_at(DataConfig(dataset=task["dataset"]))
    if len(look.class_names) < 2:
        raise DataError(
            f"a dataset has at least 2 classes, found {len(look.class_names)}: put the images of "
            "each class into a folder of its own"
        )
    return {
        "classes": len(look.class_names),
        "class_names": list(look.class_names[:SHOWN_CLASSES]),
        "images": look.num_images,
        "smallest_class": look.smallest_class,
        "image_size": look.survey.native_size,
        "is_gray": look.survey.gray,
        "bad_images": look.survey.num_bad,
        "images_looked_at": look.survey.num_read + look.survey.num_bad,
    }


def _limit_memory(kind: str) -> None:
    """Set the limit that a task of this kind can do with."""
    if kind == "estimate" and importlib.util.find_spec("torch") is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (TORCH_MEMORY_BYTES, TORCH_MEMORY_BYTES))
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _estimate(task: dict[str, Any]) -> dict[str, Any]:
    """Plan a request and say what it would take on the machine that would run it."""
    from distillery.models.config import forbids_commercial_use
    from generator.config import to_dict
    from generator.estimate import estimate
    from generator.plan import make_plan
    from generator.work import describe_base, nominal_prices

    machine, is_here = _machine(task.get("machine"))
    has_torch = importlib.util.find_spec("torch") is not None
    cache = Path(task["cache"]) if has_torch else Path("/nonexistent")
    models = Path(task["models"]) if task.get("models") else None
    plan = make_plan(task["request"], cache=cache, machine=machine, models=models)
    speeds = None
    if not (has_torch and is_here):  # the worker's own cannot be measured
        base_networks = describe_base(plan.config, len(plan.look.class_names))
        speeds = nominal_prices(plan.config, base_networks)
    figures = estimate(plan, machine, cache=cache, speeds=speeds)
    base = plan.config.base.reference
    return {
        "seconds": {"expected": figures.seconds, "low": figures.low_s, "high": figures.high_s},
        "stages": [asdict(stage) for stage in figures.stages],
        "memory": {"bytes": figures.memory_bytes, "basis": figures.memory_basis},
        "disk": {"bytes": figures.disk_bytes, "basis": figures.disk_basis},
        "download_bytes": figures.download_bytes,
        "licence": figures.licence,
        "non_commercial": forbids_commercial_use(base, figures.licence),
        "dataset": {
            "classes": len(plan.look.class_names), "images": plan.look.num_images,
            "smallest_class": plan.look.smallest_class,
        },
        "device": machine.gpu or "cpu",
        "warnings": [*plan.warnings, *figures.warnings],
        "decisions": [asdict(decision) for decision in plan.decisions],
        "config": to_dict(plan.config),
    }  # fmt: skip


def _machine(facts: dict[str, Any] | None) -> tuple[Any, bool]:
    """Return the machine of a worker, and whether it is this one."""
    from distillery.machine import Machine, available_cores, memory_limit_bytes, probe

    if facts is None or facts.get("host") == socket.gethostname():
        if importlib.util.find_spec("torch") is not None:
            return probe(), True
        if facts is None:
            return Machine(available_cores(), memory_limit_bytes(), None, 0), True
    machine = Machine(
        int(facts["cores"]), int(facts["memory_bytes"]), facts.get("gpu"),
        int(facts.get("gpu_memory_bytes") or 0),
    )  # fmt: skip
    return machine, False


TASKS = {"dataset": _dataset, "estimate": _estimate}

if __name__ == "__main__":
    main()
