"""The starts of refinement: which are refined, which may become the result, and which one does.

`generated` is what stage score chose from the pool, `real` are k-medoids of real training images.
Both are refined by the same code, and validation chooses; the test split is never asked. No torch.
"""

from collections.abc import Sequence
from typing import Literal

from generator.config import DistillConfig

Start = Literal["generated", "real"]
STARTS: tuple[Start, ...] = ("generated", "real")
"""The product's own first: it wins where nothing speaks for the other."""
JUDGES = 4
"""Students of each set where two starts compete: two alone hardly tell how far they spread."""
REFINED_SUFFIX, UNKEPT_SUFFIX = ", refined", ", refinement not kept"
"""How the table of controls names a refined start, and one that validation preferred as it was."""
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


def kept_start(competing: Sequence[Start], *, is_real_better: bool) -> Start:
    """Return the rival that becomes the result: of two the generated one unless real is better.

    Args:
        competing: The rivals.
        is_real_better: Whether the real start's best set is better beyond chance.
    """
    if len(competing) == 1:
        return competing[0]
    return "real" if is_real_better else "generated"


def start_word(config: DistillConfig, kept: Start, *, is_fallback: bool) -> Word:
    """Return what the bundle calls the start of its images, and with it why they are real."""
    if config.refine.start == "real":
        return "real_by_request"
    if is_fallback:
        return "real"
    return "generated" if kept == "generated" else "real_by_validation"
