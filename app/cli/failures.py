"""From an exception to one sentence and an exit code; the traceback goes to a file.

0 done, 1 the work failed, 2 the request or its input is wrong, 130 interrupted. Of a service: 3 it
wants a key, 4 it knows nothing of that name, 5 it is out of reach or failed, 6 the time is up.
"""

import errno
import logging
import os
import tempfile
import traceback
from pathlib import Path

from distillery import errors

log = logging.getLogger(__name__)

ERROR_LOG = "error.log"
"""Where the traceback of an unexpected error lies, in the folder of its job."""
USAGE = (
    errors.ConfigError, errors.DataError, errors.ModelError, errors.JobError, errors.BundleError,
)  # fmt: skip
SYSTEM_SENTENCES = {
    errno.ENOSPC: "no space left on the disk{at}: free some and repeat the command, finished work "
    "is kept",
    errno.EDQUOT: "the disk quota is used up{at}: free some space and repeat the command, finished "
    "work is kept",
    errno.EACCES: "no permission to use{at}: change its rights, or name another folder (--out, or "
    "DISTILLERY_CACHE for the cache)",
    errno.EPERM: "no permission to use{at}: change its rights, or name another folder",
    errno.EROFS: "the file system is read-only{at}: name another folder (--out, or "
    "DISTILLERY_CACHE for the cache)",
    errno.ENOTDIR: "a folder was expected, a file came{at}: name another folder",
    errno.EEXIST: "a file or folder of that name is in the way{at}: name another folder",
    errno.EISDIR: "a file was expected, a folder came{at}",
    errno.ENAMETOOLONG: "a file name is too long{at}: name a shorter one",
    errno.ENOENT: "there is no such file or folder{at}",
    errno.EMFILE: "too many files are open{at}: raise the limit (ulimit -n)",
}
"""What a person can mend about an `OSError`, by its number."""
MEMORY = (
    "there is not enough memory for this: choose a smaller --image-size, fewer --ipc or fewer "
    "--threads, or see what `distillery estimate` says"
)


class Crash(Exception):
    """An unexpected error whose traceback lies in a file."""

    def __init__(self, error: BaseException, path: Path | None) -> None:
        kind, first = type(error).__name__, str(error).strip().split("\n")[0][:200]
        where = f"the details are in {path}" if path else "its log could not be written"
        super().__init__(f"unexpected {kind}: {first or 'no message'}; {where}")


def is_expected(error: BaseException) -> bool:
    """Say whether `sentence` can explain an error without its traceback."""
    if isinstance(error, OSError):
        return error.errno in SYSTEM_SENTENCES
    expected = (errors.DistilleryError, errors.Cancelled, Crash, KeyboardInterrupt)
    return isinstance(error, expected) or is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation failed, in Python, torch's CPU allocator or on a GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def sentence(error: BaseException) -> str:
    """Return what to tell a person of an expected error."""
    if isinstance(error, OSError) and error.errno in SYSTEM_SENTENCES:
        at = f" ({error.filename})" if error.filename else ""
        return SYSTEM_SENTENCES[error.errno].format(at=at)
    return MEMORY if is_out_of_memory(error) else str(error)


def exit_code(error: BaseException) -> int:
    """Return the exit code of an expected error."""
    if isinstance(error, errors.Cancelled | KeyboardInterrupt):
        return 130
    wrong_place = (
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
    )  # fmt: skip
    if isinstance(error, errors.ServiceError):
        return _service_exit_code(error)
    if isinstance(error, OSError):
        return 2 if error.errno in wrong_place else 1
    return 2 if isinstance(error, USAGE) else 1


def _service_exit_code(error: errors.ServiceError) -> int:
    """Return the exit code of what a service said."""
    if isinstance(error, errors.WaitTimeout):
        return 6
    if error.code == "job_failed":
        return 1
    by_status = {401: 3, 403: 3, 404: 4, 429: 5}
    is_request = error.status is not None and 400 <= error.status < 500
    return by_status.get(error.status or 0, 2 if is_request else 5)


def crash(error: BaseException, folders: list[Path]) -> Crash:
    """Write the traceback to `ERROR_LOG` in the first folder that takes it."""
    text = "".join(traceback.format_exception(error))
    for folder in [*folders, Path(tempfile.gettempdir())]:
        name = ERROR_LOG if folder.is_dir() else f"distillery-error-{os.getpid()}.log"
        path = (folder if folder.is_dir() else folder.parent) / name
        try:
            path.write_text(text, encoding="utf-8", errors="replace")
            return Crash(error, path)
        except OSError as failed:
            log.debug("no log in %s: %s", path, failed)
    return Crash(error, None)
