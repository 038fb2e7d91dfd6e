"""Another process that works ahead of a job: all that it computes from its real images alone.

Where an operation uses one core, the generator is trained on it while this process uses another
for the stages aside (`generator.ahead_work`). The job waits for one that is under way, and does
itself what is not: it needs no other process, and its result is the same without. No torch here:
the process is started first, so that both import what they need at the same time.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from distillery.machine import available_cores
from generator.config import from_dict
from generator.work import works_ahead

LOG = ".ahead.log"
"""What an unexpected error of the process leaves in the job's folder."""
START = """
from distillery.machine import quick_imports
with quick_imports():
    from generator.ahead_work import main
main()
"""
COMMAND = (sys.executable, "-c", START)


class Ahead:
    """The process, from before the job is planned until it is over."""

    def __init__(self, request: Mapping[str, Any], folder: Path) -> None:
        """Start it, unless the request or the job's folder say that it would have nothing to do."""
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._folder, self._is_given = folder, False
        is_short = request.get("preset") == "smoke" or request.get("device") == "cuda"
        if available_cores() < 2 or is_short or (folder / "bundle").exists():
            return
        self._child = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the job, which ends this one
        )  # fmt: skip

    def give(self, job: Mapping[str, Any], *, cache: Path) -> None:
        """Let it work ahead of a job, or end it where that does not pay.

        Args:
            job: Content of its `job.json`.
            cache: Folder of shared stages.
        """
        if self._child is None or not works_ahead(from_dict(job["config"])):
            self._end()
            return
        self._is_given = True
        (self._folder / LOG).unlink(missing_ok=True)  # of an earlier process
        line = json.dumps([str(self._folder.absolute()), str(cache.absolute())]) + "\n"
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has failed: the log tells why, the job does the work
            self._child.stdin.write(line.encode())
            self._child.stdin.flush()

    def _end(self) -> None:
        """Kill it; what it was doing goes on from its last checkpoint, by whoever needs it."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        with suppress(BrokenPipeError):
            self._child.stdin.close()  # type: ignore[union-attr]
        self._child = None

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._log.seek(0)
        text = self._log.read()
        if text and self._is_given and self._folder.is_dir():
            (self._folder / LOG).write_bytes(text)
        self._log.close()
