"""Which job and stage a log line of this worker is about.

The engine runs each stage in a thread of its own, and what happens there logs from there.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WORK: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("work", default=())


@contextmanager
def about(job_id: str, stage: str | None = None) -> Iterator[None]:
    """Say what this thread is at, for the lines that it logs meanwhile."""
    token = _WORK.set((("job_id", job_id), *([("stage", stage)] if stage else [])))
    try:
        yield
    finally:
        _WORK.reset(token)


def name_work(record: logging.LogRecord) -> bool:
    """Write job and stage into a record that does not say them itself; a filter of handlers."""
    for name, value in _WORK.get():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True
