"""The starts of refinement: which are refined, which may become the result, and which one does.

`generated` is what stage score chose from the pool, `real` are k-medoids of real training images.
Both are refined by the same code, and validation chooses; the test split is never asked. No torch.
"""

from collections.abc import Mapping
from typing import Literal

from generator.config import DistillConfig

Start = Literal["generated", "real"]
STARTS: tuple[Start, ...] = ("generated", "real")
"""The product's own first: it wins where nothing speaks for the other."""
Word = Literal["generated", "real", "real_by_validation", "real_by_request"]
"""What the bundle says: `real` alone means that the generator's samples failed their check."""


def rivals(config: DistillConfig, *, is_fallback: bool = False) -> tuple[Start, ...]:
    """Return the starts that may become the result.

    Args:
        config: The job's.
        is_fallback: Whether stage score chose real images because the samples were not faithful:
            then the real start alone is enough.
    """
    if config.refine.start != "auto":
        return (config.refine.start,)
    return ("real",) if is_fallback else STARTS


def refined_starts(config: DistillConfig, *, is_fallback: bool = False) -> tuple[Start, ...]:
    """Return the starts that are refined: the rivals, and for the table of controls the other."""
    if not config.refine.enabled:
        return ()
    own = rivals(config, is_fallback=is_fallback)
    nothing_generated = is_fallback and own == ("real",)
    return STARTS if config.evaluate.controls and not nothing_generated else own


def kept_start(scores: Mapping[Start, float]) -> Start:
    """Return the rival with the lower score; the generated one at a tie or where one is NaN.

    Args:
        scores: Robust validation loss of each rival's best set, NaN where it cannot be used.
    """
    if len(scores) == 1:
        return next(iter(scores))
    return "real" if scores["real"] < scores["generated"] else "generated"  # never with a NaN


def start_word(config: DistillConfig, kept: Start, *, is_fallback: bool) -> Word:
    """Return what the bundle calls the start of its images, and with it why they are real."""
    if config.refine.start == "real":
        return "real_by_request"
    if is_fallback:
        return "real"
    return "generated" if kept == "generated" else "real_by_validation"
