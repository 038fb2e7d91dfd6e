"""How often a client may ask, and how much disk must stay free."""

import math
import shutil
import threading
import time
from pathlib import Path

from app.api.problems import Problem

MAX_CLIENTS = 10_000


class Buckets:
    """Token buckets: each client has `burst` requests, and gets `per_second` new ones."""

    def __init__(self, per_second: float, burst: float) -> None:
        """Take the rates; `per_second` 0 switches the limit off."""
        self.per_second, self.burst = per_second, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, client: str, cost: float = 1.0) -> int:
        """Take a request of a client; return 0, or the seconds after which to try again."""
        if not self.per_second:
            return 0
        now = time.monotonic()
        with self._lock:
            if len(self._left) > MAX_CLIENTS:
                self._left.clear()
            left, at = self._left.get(client, (self.burst, now))
            left = min(self.burst, left + (now - at) * self.per_second)
            if left < cost:
                self._left[client] = (left, now)
                return math.ceil((cost - left) / self.per_second)
            self._left[client] = (left - cost, now)
            return 0

    def is_empty(self, client: str) -> bool:
        """Say whether a client has to wait; takes nothing."""
        return self.wait_s(client, cost=0.0) > 0 or self._lacks(client)

    def _lacks(self, client: str) -> bool:
        with self._lock:
            return self._left.get(client, (self.burst, 0.0))[0] < 1.0


def check_disk(folder: Path, floor_bytes: int, coming_bytes: int = 0) -> None:
    """Refuse what would leave less than the floor free on the disk of a folder.

    Raises:
        Problem: `storage_full`.
    """
    free = shutil.disk_usage(folder).free
    if free - coming_bytes < floor_bytes:
        raise Problem(
            "storage_full",
            f"{free / 1e9:.1f} GB are free and {floor_bytes / 1e9:.1f} GB must stay free: delete "
            "jobs or uploads, or ask the operator",
            retry_after_s=600,
        )
