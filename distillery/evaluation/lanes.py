"""A row of a lane chart: what is compared, its figure and its spread.

Apart from the drawing, so that a page without matplotlib can show the same rows.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """One row of a lane chart; shares are in [0, 1] and shown in percent."""

    label: str
    """What the row is, any text."""
    mean: float | None
    """Share to mark; None shows `note` instead."""
    std: float | None = None
    """Half the length of the whisker, if any."""
    runs: tuple[float, ...] = ()
    """Single results, as faint dots."""
    is_ours: bool = False
    """Drawn in the accent colour, and in bold beside lanes that are not ours."""
    reference: float | None = None
    """Another share in the same row, as a hollow dot."""
    note: str = ""
    """Text in place of a value."""
