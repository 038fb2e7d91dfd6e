"""A quick look at a dataset, to choose image size and channels before everything is decoded."""

from dataclasses import dataclass

import numpy as np

from distillery.data.decode import flatten
from distillery.data.source import Item, Readable, Source, failure_reason
from distillery.errors import DataError

RUN_LENGTH = 16
"""Neighbours read together: they often share a block of the file they are stored in."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a sample of the images looks like."""

    native_size: int
    """Median length of the shorter side, in pixels."""
    gray: bool
    """Whether no image of the sample has colour."""
    num_read: int
    """Images of the sample that could be read."""
    num_bad: int
    """Images of the sample that could not."""


def survey(source: Source, *, limit: int = 256) -> Survey:
    """Read about `limit` images spread over the dataset.

    Raises:
        DataError: If none of them can be read.
    """
    sides, gray, bad = [], True, []
    for item in _sample(source, limit):
        try:
            image = item.read()
            sides.append(_shorter_side(image))  # before a JPEG is decoded at reduced size
            gray = gray and not _has_colour(image)
        except Exception as error:  # any broken file; `prepare` names every one of them
            bad.append(f"{item.name}: {failure_reason(error, item.name)}")
    if not sides:
        raise DataError(
            f"none of {len(bad)} images looked at in {source.reference!r} can be read; the first "
            f"is {bad[0] if bad else 'missing'}"
        )
    return Survey(
        native_size=int(np.median(sides)), gray=gray, num_read=len(sides), num_bad=len(bad)
    )


def _sample(source: Source, limit: int) -> list[Item]:
    """Return runs of neighbouring items, the runs spread evenly."""
    count = len(source.items)
    if count <= limit:
        return list(source.items)
    num_runs = max(1, limit // RUN_LENGTH)
    starts = np.linspace(0, count - RUN_LENGTH, num_runs).astype(int)
    chosen = sorted({int(start) + offset for start in starts for offset in range(RUN_LENGTH)})
    return [source.items[index] for index in chosen if 0 <= index < count]


def _shorter_side(image: Readable) -> int:
    return min(image.shape[1:]) if isinstance(image, np.ndarray) else min(image.size)


def _has_colour(image: Readable) -> bool:
    """Say whether the three channels differ anywhere (a gray picture may be stored as RGB)."""
    if not isinstance(image, np.ndarray):
        flat = flatten(image, 32)
        if flat.mode == "L":
            return False
        image = np.asarray(flat).transpose(2, 0, 1)  # (3, H, W)
    return bool((image != image[:1]).any())
