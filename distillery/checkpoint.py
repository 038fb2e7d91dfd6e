"""The state of an interrupted computation, in one file that is replaced whole.

A loop saves tensors and plain facts every few seconds and asks for them when it starts: after a
kill at any moment it goes on from the last state saved, and ends with the same result.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distillery.tensorfile import read_tensors, write_tensors


class Checkpoint:
    """One resumable state at `path`; saves at most once in `interval_s` seconds."""

    def __init__(self, path: Path, *, interval_s: float = 10.0) -> None:
        self.path = path
        self.interval_s = interval_s
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Say whether `interval_s` has passed since the last save (or the start)."""
        return time.monotonic() - self._last_save >= self.interval_s

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Replace the saved state by these arrays and JSON facts."""
        write_tensors(self.path, arrays, {"facts": json.dumps(dict(facts), sort_keys=True)})
        self._last_save = time.monotonic()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the saved (arrays, facts), or None where nothing was saved yet."""
        if not self.path.exists():
            return None
        arrays, metadata = read_tensors(self.path)
        return arrays, json.loads(metadata["facts"])
