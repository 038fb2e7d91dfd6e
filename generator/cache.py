"""The cache as a list of entries, and its pruning: what was used least recently goes first.

Only folders and files that stages and evaluations have made, by their names, are looked at. An
entry is renamed aside while its holds are taken, then deleted: a process killed in between leaves
a folder that no job takes for an entry and that the next pruning removes. Needs no torch.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.entries import (
    EVALUATIONS,
    PARTIAL,
    RECORD,
    is_held,
    jobs_of,
    lock_of,
    record_of,
    take,
    use_of,
)

STAGE_NAME = r"[a-z]+-[0-9a-f]{16}"
EVALUATION_NAME = r"[0-9a-f]{16}"
SUFFIX = r"(\.partial|\.part-\d{4})?"
LEFTOVER_S = 7 * 24 * 3600.0
"""Unfinished work that nothing was written to for so long is a leftover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that is kept: a stage, finished or not, or the students of an evaluation."""

    folder: Path
    """Where it is when complete."""
    kind: str
    """Name of the stage, or `evaluation`."""
    is_complete: bool
    folders: tuple[Path, ...]
    """What there is of it: itself, or its partial folder and finished parts."""
    size_bytes: int
    last_use: float
    """Seconds since the epoch."""
    jobs: tuple[str, ...]
    """Names of the jobs that have used it."""
    is_held: bool
    """Whether a process is using it now."""
    record: dict[str, Any] | None
    """Of a complete stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruning has removed, or would remove."""

    entries: tuple[Entry, ...]
    num_leftovers: int
    """Folders that an earlier pruning had renamed, and lock files of nothing."""


def list_entries(cache: Path) -> list[Entry]:
    """Return what is in a cache, the least recently used first."""
    found = set()
    for root, pattern in _roots(cache):
        for path in _children(root):
            match = re.fullmatch(rf"({pattern}){SUFFIX}", path.name)
            if match and path.is_dir() and not path.is_symlink():
                found.add(root / match[1])
    entries = [entry for folder in found if (entry := _entry(folder)) is not None]
    return sorted(entries, key=lambda entry: (entry.last_use, str(entry.folder)))


def prune(
    cache: Path,
    entries: Iterable[Entry],
    *,
    is_used: Callable[[Entry], bool],
    keep_bytes: float | None = None,
    older_than_s: float | None = None,
    is_dry_run: bool = False,
) -> Pruned:
    """Remove leftovers, and entries that nobody uses.

    Args:
        cache: Folder of shared stages.
        entries: What `list_entries` found, before `is_used` was asked: one that is used after
            that stays.
        is_used: Says of an entry that it must stay; one that a process uses stays anyway.
        keep_bytes: Remove the least recently used until the cache is no larger.
        older_than_s: Remove those whose last use is longer ago.
        is_dry_run: Only say what would be removed.
    """
    entries = list(entries)
    size = sum(entry.size_bytes for entry in entries)
    removed = []
    for entry in entries:
        is_over = keep_bytes is not None and size > keep_bytes
        is_old = time.time() - entry.last_use > _limit_s(entry, older_than_s)
        may_go = (is_over or is_old) and not entry.is_held and not is_used(entry)
        if may_go and (is_dry_run or _remove(entry, is_used)):
            removed.append(entry)
            size -= entry.size_bytes
    return Pruned(entries=tuple(removed), num_leftovers=_sweep(cache, is_dry_run=is_dry_run))


def _limit_s(entry: Entry, older_than_s: float | None) -> float:
    """Return for how long an entry may go unused."""
    limits = [] if older_than_s is None else [older_than_s]
    return min([*limits, float("inf") if entry.is_complete else LEFTOVER_S])


def _roots(cache: Path) -> tuple[tuple[Path, str], ...]:
    """Return the folders that entries lie in, and what the names of entries look like."""
    return (cache, STAGE_NAME), (cache / EVALUATIONS, EVALUATION_NAME)


def _children(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing where there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _entry(folder: Path) -> Entry | None:
    """Return an entry as it is on the disk now, None where nothing is left of it."""
    parts = sorted(folder.parent.glob(f"{folder.name}.part-*"))
    places = (folder, folder.with_name(folder.name + PARTIAL), *parts)
    folders = tuple(path for path in places if path.is_dir())
    is_evaluation = folder.parent.name == EVALUATIONS
    files = [stat for path in folders for stat in _files(path)]
    is_complete, use = is_evaluation or (folder / RECORD).exists(), _stat(use_of(folder))
    times = [use.st_mtime] if use is not None else []
    if not is_complete or not times:  # checkpoints tell of use too
        times += [stat.st_mtime for stat in files]
    return None if not folders else Entry(
        folder=folder, kind="evaluation" if is_evaluation else folder.name.partition("-")[0],
        is_complete=is_complete, folders=folders, size_bytes=sum(stat.st_size for stat in files),
        last_use=max(times, default=0.0), jobs=jobs_of(folder),
        is_held=any(map(is_held, _locks(folder, folders))), record=record_of(folder),
    )  # fmt: skip


def _files(folder: Path) -> Iterable[os.stat_result]:
    """Yield what the system says of a folder and every file below; those that just go are none."""
    below = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    yield from filter(None, map(_stat, [folder, *below]))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _locks(folder: Path, folders: Iterable[Path]) -> list[Path]:
    """Return the files that processes hold which are at an entry."""
    parts = [lock_of(path) for path in folders if ".part-" in path.name]
    return [use_of(folder), lock_of(folder), *parts]


def _remove(entry: Entry, is_used: Callable[[Entry], bool]) -> bool:
    """Remove an entry unless someone has come to use it; says whether it did."""
    use, locks = use_of(entry.folder), _locks(entry.folder, entry.folders)
    had_use = use.exists()
    holds = [take(path) for path in locks]
    if None in holds:
        return False
    if not had_use:  # just made: it must not look like a use
        os.utime(use, (entry.last_use, entry.last_use))
    now = _entry(entry.folder)
    if (
        now is None
        or (now.folders, now.last_use) != (entry.folders, entry.last_use)
        or is_used(now)
    ):
        return False
    aside = [_rename_aside(folder) for folder in now.folders]
    for path in locks:  # while they are held: who waits for one sees that it is gone
        path.unlink(missing_ok=True)
    holds.clear()  # and with them the locks
    for folder in aside:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _rename_aside(folder: Path) -> Path:
    """Take an entry's name from a folder."""
    return folder.rename(folder.with_name(f".{folder.name}.removed-{secrets.token_hex(4)}"))


def _sweep(cache: Path, *, is_dry_run: bool) -> int:
    """Remove what killed prunings and killed jobs have left beside entries; returns how much."""
    count = 0
    for root, pattern in _roots(cache):
        name = rf"\.({pattern}){SUFFIX}"
        for path in _children(root):
            if re.fullmatch(rf"{name}\.removed-[0-9a-f]{{8}}", path.name):
                count += 1
                if not is_dry_run:
                    shutil.rmtree(path, ignore_errors=True)
            elif (match := re.fullmatch(rf"{name}\.(lock|used)", path.name)) is not None:
                is_stale = not any(root.glob(f"{match[1]}*"))
                count += is_stale and (not is_held(path) if is_dry_run else _unlink_lock(path))
    return count


def _unlink_lock(path: Path) -> bool:
    """Remove a lock file unless a process holds it; says whether it did."""
    hold = take(path)
    if hold is None:
        return False
    path.unlink(missing_ok=True)
    hold.release()
    return True
