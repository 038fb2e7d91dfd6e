"""How often in a row a stage's process died without getting anywhere, in the job's folder.

A death counts only where the supervisor saw it, so the end of a supervisor or of the API never
does; and a process that wrote a new checkpoint before it died got somewhere.
"""

from pathlib import Path
from typing import Any

from filelock import FileLock

from distillery.files import read_json, write_json

FILE = "attempts.json"
MAX_DEATHS = 3

Marks = dict[str, tuple[int, int]]
"""(size, time of change) of a stage's checkpoints and finished parts, by path."""


def marks_of(work: Path | None) -> Marks:
    """Return what a stage has on disk of its progress; `work` is the folder that it writes in."""
    if work is None:
        return {}
    stem = work.name.partition(".")[0]
    found: Marks = {}
    for pattern in ("checkpoint-*", "stage.json", "group.json", "part.safetensors"):
        for path in work.parent.glob(f"{stem}.*/{pattern}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # the stage has just been finished
                continue
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def count_death(folder: Path, key: str, reason: str, *, got_somewhere: bool) -> int:
    """Note the death of a stage's process and return how many there were in a row."""
    with FileLock(folder / f".{FILE}.lock"):
        stages = _read(folder)
        deaths = 0 if got_somewhere else stages.get(key, {}).get("deaths", 0) + 1
        stages[key] = {"deaths": deaths, "last": reason}
        write_json(folder / FILE, stages)
    return deaths


def forget(folder: Path, key: str) -> None:
    """Begin again at none: the stage is done, or its job has failed and may be retried."""
    if not (folder / FILE).exists():
        return
    with FileLock(folder / f".{FILE}.lock"):
        stages = _read(folder)
        if stages.pop(key, None) is not None:
            write_json(folder / FILE, stages)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the deaths by stage."""
    path = folder / FILE
    return read_json(path) if path.exists() else {}
