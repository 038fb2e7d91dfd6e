"""What the process ahead of a job does: the stages aside, in the order in which the job needs them.

    main() < one line, [JOB, CACHE] as JSON

It yields to the job, and ends with whoever started it, however that ends.
"""

import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from distillery.data.dataset import Dataset
from distillery.errors import DistilleryError
from distillery.files import read_json
from distillery.machine import keep_large_buffers
from distillery.progress import ignore_progress
from generator.aside import finish
from generator.config import DistillConfig, from_dict
from generator.pipeline import JOB_FILE, set_up, stage_root, walk
from generator.real_start import has_enough
from generator.stage import Stage
from generator.stages import proxies, proxy, real_students, refine_real, teacher
from generator.starts import refined_starts
from generator.vision import trains_teacher

NICENESS = 5


def stages_ahead(config: DistillConfig, *, has_real_start: bool) -> list[Stage]:
    """Return the stages aside that a job will need, in the order in which it does.

    Args:
        config: The job's.
        has_real_start: Whether every class has enough images for one.
    """
    refine, evaluate = config.refine, config.evaluate
    is_refined = "real" in refined_starts(config) and has_real_start
    is_refined = is_refined and refine_real.is_aside(config)
    is_judged = evaluate.controls and evaluate.protocol is None
    wanted = {
        proxy.STAGE: True,
        proxies.STAGE: refine.enabled,
        refine_real.STAGE: is_refined,
        teacher.STAGE: trains_teacher(config),
        real_students.STAGE: is_judged,
        real_students.REFINED_STAGE: is_judged and is_refined,
    }
    return [stage for stage, is_wanted in wanted.items() if is_wanted]


def work_ahead(folder: Path, cache: Path) -> None:
    """Do the stages aside of the job in a folder, one after another."""
    job = read_json(folder / JOB_FILE)
    set_up(job)
    config = from_dict(job["config"])
    prepared = walk(
        folder, job, cache=cache, until="prepare", on_progress=ignore_progress, is_noted=False
    )["prepare"]
    enough = has_enough(Dataset.load(prepared.folder), config)
    for stage in stages_ahead(config, has_real_start=enough):
        root = stage_root(stage, folder, cache)
        finish(stage, config, prepared, root=root, on_progress=ignore_progress)


def _end_with_parent() -> None:
    """End this process at once when the other end of its input is gone."""
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer: Python waits for its lock at exit
        pass
    os._exit(0)


def _line() -> bytes:
    """Return the first line of the input, empty where it was closed before."""
    parts = []
    while (byte := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        parts.append(byte)
    return b"".join(parts)


def main() -> None:
    """Wait for a job and work ahead of it; what cannot be done is told by the job itself."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    keep_large_buffers()
    line = _line()
    if not line:
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, cache = json.loads(line)
    with suppress(DistilleryError):
        work_ahead(Path(folder), Path(cache))


if __name__ == "__main__":
    main()
