"""The child's end of its pipes: tasks and signs of life come in, JSON lines go out.

A supervisor writes a task as one line of JSON, then an empty line every half second while the
stage runs. When it is gone (end of file) or hangs, the child ends at once: another process may
already be at the stage, and what is on the disk is whole at any moment.
"""

import json
import os
import queue
import threading
import time
from typing import Any

EXIT_ORPHAN, EXIT_SILENCE, EXIT_CANCELED = 70, 71, 75
SILENCE_S = 3.0
"""A supervisor that says nothing for so long has stopped."""
TICK_S = 0.25
LAST_WORDS = ("done", "error", "canceled")
"""How a task ends; each is the last line about it."""


class Link:
    """Reads in a thread of its own; ends the process when the supervisor is gone."""

    def __init__(self, source: int, sink: int, *, silence_s: float = SILENCE_S) -> None:
        """Listen to one file descriptor, write to the other."""
        self._source, self._sink, self._silence_s = source, sink, silence_s
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._heard = time.monotonic()
        self._write_lock = threading.Lock()
        self.is_working = False
        for target in (self._listen, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def next_task(self) -> dict[str, Any]:
        """Wait for a task; the process ends here when the supervisor closes the pipe."""
        self.is_working = False
        task = self._tasks.get()
        self._heard = time.monotonic()
        self.is_working = True
        return task

    def send(self, kind: str, value: Any) -> None:
        """Write one line `{kind: value}`; nothing is at work once a task's last word is said."""
        if kind in LAST_WORDS:
            self.is_working = False
        line = json.dumps({kind: value}, allow_nan=False).encode() + b"\n"
        with self._write_lock:
            try:
                while line:
                    line = line[os.write(self._sink, line) :]
            except BrokenPipeError:
                os._exit(EXIT_ORPHAN)

    def _listen(self) -> None:
        """Take what the supervisor writes, until there is no supervisor."""
        rest = b""
        while chunk := os.read(self._source, 65536):
            self._heard = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                self._tasks.put(json.loads(line))
        os._exit(EXIT_ORPHAN if self.is_working else 0)

    def _watch(self) -> None:
        """End a working process whose supervisor is silent."""
        before = time.monotonic()
        while True:
            time.sleep(TICK_S)
            now = time.monotonic()
            if now - before > 4 * TICK_S:  # we ourselves stood still: what was sent is yet unread
                self._heard = now
            if self.is_working and now - self._heard > self._silence_s:
                os._exit(EXIT_SILENCE)
            before = now
