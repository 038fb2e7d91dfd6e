"""The process that does stages: `python -m app.worker.child`, started by a supervisor.

It imports the torch stack, then waits for tasks on its standard input (see `app.worker.link`).
Results and reports are JSON lines on its standard output; whatever prints goes to the job's log.
Exit codes: 0 no more tasks, 1 a stage failed, 70 or 71 the supervisor is gone, 75 canceled.
"""

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from app.cli.local import start_local
from app.worker.attempts import marks_of
from app.worker.codes import code_of, describe, sentence_of
from app.worker.link import EXIT_CANCELED, Link
from app.worker.reports import Reporter, Stop
from app.worker.tasks import StageTask, hide_paths
from app.worker.wire import task_from_dict
from distillery.errors import Cancelled
from distillery.machine import quick_imports

LOG_FILE, TRACEBACK_FILE, FAULT_FILE = "job.log", "error.log", ".fault.log"
PR_SET_PDEATHSIG = 1
log = logging.getLogger("app.worker")


def main() -> None:
    """Do tasks until there are no more."""
    parent = os.getppid()
    sink = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get between the lines
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the supervisor's to judge
    die_with_parent()
    link = Link(0, sink)
    if os.getppid() != parent:  # it died before the kernel knew of our wish
        os._exit(0)
    start_local()
    stop = Stop()
    with quick_imports():
        from app.worker import perform  # noqa: F401  (the slow part of a start, done ahead)

    link.send("ready", os.getpid())
    while True:
        code = run_task(task_from_dict(link.next_task()), link, stop)
        if code != 0:
            os._exit(code)  # threads of a stopped stage may still compute


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def run_task(task: StageTask, link: Link, stop: Stop) -> int:
    """Do one task, say how it ended, and return the exit code (0: ready for another)."""
    from app.worker.perform import perform
    from app.worker.previews import Previews

    open_log(task, link)
    os.chdir(task.folder)  # a dataset's name is a path where there is one: only the job's own
    name = task.stage if task.group is None else f"{task.stage}, part {task.group}"
    previews = Previews(task, lambda data: link.send("preview", data))
    reporter = Reporter(link.send, stop, previews.tick)

    def on_work(folder: Path) -> None:
        previews.folder = folder
        # taken here, before the work: the supervisor may read this line late
        link.send("work", {"folder": str(folder), "marks": marks_of(folder)})

    log.info("%s begins", name)
    try:
        with stop:
            facts = perform(task, reporter, on_work, previews.after)
    except Cancelled as error:
        log.info("%s was stopped: %s", name, error or "asked to")
        link.send("canceled", None)
        return EXIT_CANCELED
    except Exception as error:
        link.send("error", failure(error, task))
        return 1
    reporter.flush()
    log.info("%s is done%s", name, f": {facts['summary']}" if "summary" in facts else "")
    link.send("done", facts)
    return 0


def failure(error: Exception, task: StageTask) -> dict[str, Any]:
    """Return what a job's record says of an error; the traceback goes to a file of its own."""
    code, message = code_of(error), hide_paths(sentence_of(error), task)
    log.error("%s failed (%s): %s", task.stage, code, message)
    text = "".join(traceback.format_exception(error))
    try:
        with open(task.folder / TRACEBACK_FILE, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"{task.stage}\n{text}\n")
    except OSError as failed:  # a full disk, most likely the error itself
        log.error("the traceback could not be written: %s", failed.strerror)
    return describe(code, message, phase=task.stage)


def open_log(task: StageTask, link: Link) -> None:
    """Send all output from here on to the job's log, and warnings to the job's events too."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = _appended(task.folder / LOG_FILE)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    faulthandler.enable(file=_appended(task.folder / FAULT_FILE))  # where a crash of C code was
    logging.captureWarnings(True)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    to_file = logging.StreamHandler(sys.stderr)
    to_file.setFormatter(logging.Formatter(form, "%Y-%m-%dT%H:%M:%S%z"))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, _Events(link, task)], force=True)
    for name in ("httpx", "httpx2", "filelock"):  # a line for each request, for each lock
        logging.getLogger(name).setLevel(logging.WARNING)


def _appended(path: Path) -> int:
    """Return a file handle that appends."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class _Events(logging.Handler):
    """Sends warnings of our own code to the supervisor, for the job's events."""

    def __init__(self, link: Link, task: StageTask) -> None:
        super().__init__(logging.WARNING)
        self._link, self._task = link, task

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in (
            "app",
            "generator",
            "finetune",
            "robust",
            "distillery",
        ):
            message = hide_paths(record.getMessage(), self._task)
            level = record.levelname.lower()
            self._link.send("log", {"level": level, "message": message})


if __name__ == "__main__":
    main()
