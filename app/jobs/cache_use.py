"""Which entries of the cache the service's unfinished jobs use, and the pruning of the rest."""

import logging
import shutil
from collections.abc import Iterable

from app.jobs.records import STATUSES, TERMINAL, JobRecord
from app.jobs.store import JobStore
from app.settings import Settings
from generator.cache import Entry, Pruned, list_entries, prune

LOG = logging.getLogger(__name__)
SPARE_SHARE, SPARE_MOST, SPARE_FLOORS = 0.1, 20e9, 4
"""Without a cap the cache may fill its disk up to a tenth, at most 20 GB; never so far that only
four times what the service needs to take jobs is left."""


class CacheUse:
    """The unfinished jobs that use entries of the cache, as they stood when this was made."""

    def __init__(self, store: JobStore, entries: Iterable[Entry]) -> None:
        """Read the jobs that wait or run."""
        states = [status for status in STATUSES if status not in TERMINAL]
        jobs, _ = store.list(status=states, limit=100_000)
        self._jobs = {job.id: job for job in jobs}
        self._expected = _expected(entries, [job for job in jobs if job.config is None])

    def jobs_of(self, entry: Entry) -> list[JobRecord]:
        """Return the unfinished jobs that use an entry, or will.

        One that is not planned yet is expected to use all that was made of its dataset.
        """
        ids = sorted({*entry.jobs, *self._expected.get(entry.folder.name, ())})
        return [self._jobs[name] for name in ids if name in self._jobs]

    def is_used(self, entry: Entry) -> bool:
        """Say whether an entry must stay."""
        return bool(self.jobs_of(entry))


def _expected(entries: Iterable[Entry], jobs: list[JobRecord]) -> dict[str, set[str]]:
    """Return the ids of the jobs whose dataset an entry was made of, by the entry's name."""
    waiting: dict[str, set[str]] = {}
    for job in jobs:
        waiting.setdefault(job.dataset, set()).add(job.id)
    complete = [entry for entry in entries if entry.record is not None]
    found: dict[str, set[str]] = {}
    by_digest: dict[str, set[str]] = {}
    while True:  # the children of what was found the time before
        before = len(found)
        for entry in complete:
            assert entry.record is not None
            dataset = entry.record["settings"].get("data", {}).get("dataset")
            users = waiting.get(dataset, set()).union(
                *(by_digest.get(digest, set()) for digest in entry.record["inputs"].values())
            )
            if users:
                found[entry.folder.name] = users
                by_digest[entry.record["digest"]] = users
        if len(found) == before:
            return found


def keep_bytes(settings: Settings, size_bytes: float) -> float:
    """Return how large the cache may be: the cap of the settings, or what leaves its disk room."""
    if settings.cache_keep_bytes is not None:
        return settings.cache_keep_bytes
    disk = shutil.disk_usage(settings.cache)
    spare = max(min(SPARE_SHARE * disk.total, SPARE_MOST), SPARE_FLOORS * settings.disk_floor_bytes)
    return max(0.0, size_bytes - max(0.0, spare - disk.free))


def prune_cache(settings: Settings, store: JobStore) -> Pruned | None:
    """Bring the cache of the service to its size; None where there is no cache yet."""
    if not settings.cache.is_dir():
        return None
    entries = list_entries(settings.cache)
    limit = keep_bytes(settings, sum(entry.size_bytes for entry in entries))
    use = CacheUse(store, entries)
    pruned = prune(settings.cache, entries, is_used=use.is_used, keep_bytes=limit)
    for entry in pruned.entries:
        LOG.info("removed %s from the cache (%d bytes)", entry.folder.name, entry.size_bytes)
    return pruned
