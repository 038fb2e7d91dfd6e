"""The worker process beside an API: started again when it dies, and ended with whoever keeps it.

The worker holds the read end of a pipe whose write end is this process's alone. When this process
is gone, however it went, the pipe closes and the worker stops at its next checkpoint.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.5, 30.0
STEADY_S = 60.0
"""A worker that lived this long is started again at once."""
GRACE_S = 50.0
"""More than a worker gives its running stage to reach a checkpoint."""
Start = Callable[..., "subprocess.Popen[bytes]"]


def worker_command(data: Path, device: str) -> list[str]:
    """Return the command of a worker that ends when its stdin does."""
    command = [sys.executable, "-m", "app.cli.main", "worker", "--data", str(data)]
    return [*command, "--device", device, "--ends-with-stdin"]


class Keeper:
    """Keeps one process running until it is told to stop."""

    def __init__(self, command: Sequence[str], *, start: Start = subprocess.Popen) -> None:
        """Take the command; `start` is there for tests."""
        self._command, self._start = list(command), start
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        """Start the process, and again whenever it ends."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    def ask_stop(self) -> None:
        """Ask the process to stop, and do not start it again."""
        self._stopping.set()
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop the process; kill it where it does not."""
        self.ask_stop()
        try:
            self._thread.join(grace_s)
        finally:
            with self._lock:
                if self._process is not None and self._process.poll() is None:
                    log.warning("the worker did not stop in %.0f s and is killed", grace_s)
                    self._process.kill()
            self._thread.join(5.0)

    def _keep(self) -> None:
        """Start, wait, start again; later each time while it dies young."""
        failures = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            code = self._run_once()
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - started_s
            failures = 0 if lived_s >= STEADY_S else failures + 1
            delay_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** max(0, failures - 1))
            log.error(
                "the worker ended after %.1f s (exit code %d) and is started again in %.1f s",
                lived_s, code, delay_s,
            )  # fmt: skip
            self._stopping.wait(delay_s)

    def _run_once(self) -> int:
        """Run the process to its end."""
        # a session of its own: Ctrl-C in a terminal comes to this process, which passes it on
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True}
        with self._lock:
            if self._stopping.is_set():
                return 0
            self._process = self._start(self._command, **options)
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code
