"""Another process that works ahead of a job: all that it computes from its real images alone.

    python -m generator.ahead JOB CACHE

Where an operation uses one core, the generator is trained on it while this process uses another
for the stages aside (`generator.aside`). The job waits for one that is under way, and does itself
what is not: it needs no other process, and its result is the same without. This one yields to the
job, and ends with it, however that ends.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
from generator.work import works_ahead

LOG = ".ahead.log"
"""What an unexpected error of this process leaves in the job's folder."""
NICENESS = 5
WAIT_S = 10.0
"""How long a process that was told to end may take."""


@contextmanager
def beside(folder: Path, job: Mapping[str, Any], *, cache: Path) -> Iterator[None]:
    """Work ahead of a job in another process while the `with` block runs it, where that pays."""
    if not works_ahead(from_dict(job["config"])):
        yield
        return
    command = [sys.executable, "-m", __spec__.name, str(folder.absolute()), str(cache.absolute())]
    with open(folder / LOG, "wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            start_new_session=True,  # Ctrl-C is for the job, which ends this one
        )  # fmt: skip
    try:
        yield
    finally:
        _end(child)
        if not (folder / LOG).stat().st_size:
            (folder / LOG).unlink()


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Close the pipe that the process lives by, and wait until it is gone."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def stages_ahead(config: DistillConfig, *, has_real_start: bool) -> list[Stage]:
    """Return the stages aside that a job will need, in the order in which it does.

    Args:
        config: The job's.
        has_real_start: Whether every class has enough images for one.
    """
    refine, evaluate = config.refine, config.evaluate
    is_refined = "real" in refined_starts(config) and has_real_start
    is_refined = is_refined and refine.parameterisation != "latent"
    is_judged = evaluate.controls and evaluate.protocol is None
    wanted = {
        proxy.STAGE: True,
        proxies.STAGE: refine.enabled,
        refine_real.STAGE: is_refined,
        teacher.STAGE: teacher.is_needed(config),
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
    """End this process at once when the other end of its input is gone; a killed stage resumes."""
    while os.read(sys.stdin.fileno(), 1):  # not through a buffer: Python waits for its lock at exit
        pass
    os._exit(0)


def main() -> None:
    """Work ahead; what a job cannot do is told by the job, which meets it itself."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    keep_large_buffers()
    with suppress(DistilleryError):
        work_ahead(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
