"""What each stage of a job gained in accuracy: pairs of sets, one without it and one with it."""

import math
from collections.abc import Mapping
from typing import Any

from generator.starts import UNKEPT_SUFFIX, Start

GENERATED_EFFECTS = (
    ("fine-tuning", "plain_dit", "fine_tuned"),
    ("selection", "fine_tuned", "selected"),
)
UNTUNED_EFFECTS = (("selection, without fine-tuning", "plain_dit", "selected"),)
"""The comparison where fine-tuning was switched off."""
REFINED_ALIKE = "with the same refinement"
REFINED_EFFECTS: Mapping[Start, tuple[tuple[str, str, str], ...]] = {
    "generated": (
        ("refinement", "selected", "ours"),
        (f"the generated start, against a real one {REFINED_ALIKE}",
         "real_refined", "ours"),
        ("the whole, against k-medoids of real images", "k_medoids", "ours"),
    ),
    "real": (
        ("refinement of the generated start", "selected", "generated_refined"),
        ("refinement", "k_medoids", "ours"),
        (f"the real start, against the generated one {REFINED_ALIKE}",
         "generated_refined", "ours"),
    ),
}  # fmt: skip
"""By the start that was kept."""
WHOLE_EFFECTS = (
    ("the whole, against random real images", "random_real", "ours"),
    ("the whole, against class means", "class_mean", "ours"),
)
"""(what, set without, set with) of each comparison that the report draws, here and above."""
FALLBACK_NAMES = {
    ("fine_tuned", "selected"): "selected real images, against samples of the fine-tuned base",
    ("plain_dit", "selected"): "selected real images, against plain samples of the base",
    ("real_refined", "ours"): "the selection of real images, against k-medoids refined alike",
}
"""What comparisons of (set without, set with) show where real images took the place of samples."""


def main_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that hold every set: those of hard labels, unless a protocol is soft."""
    return results["hard"] or results["soft"]


def stage_effects(
    results: dict[str, Any], *, kept: Start = "generated", is_fallback: bool = False
) -> list[dict[str, Any]]:
    """Return what each stage gained in accuracy, and whether that is more than noise.

    Args:
        results: Rows of the evaluation, `hard` and `soft`.
        kept: The start of our set.
        is_fallback: Whether real images took the place of samples that were not faithful.
    """
    rows = {row["name"]: row for row in main_rows(results)}
    names = FALLBACK_NAMES if is_fallback else {}
    tuning = GENERATED_EFFECTS if "fine_tuned" in rows else UNTUNED_EFFECTS
    compared = [
        (names.get((without, with_), what), without, with_)
        for what, without, with_ in (*tuning, *REFINED_EFFECTS[kept], *WHOLE_EFFECTS)
    ]
    if "selected" not in rows:  # without refinement the chosen images are our set
        compared = [(what, a, "ours" if b == "selected" else b) for what, a, b in compared]
    compared = [(_told(what, rows.get(a)), a, b) for what, a, b in compared]
    effects = [
        _effect(what, rows[without], rows[with_], without, with_)
        for what, without, with_ in compared
        if without in rows and with_ in rows
    ]
    for row in results["soft"] if results["hard"] else ():
        effects.append(_effect("soft labels", rows["ours"], row, "ours", "ours, soft labels"))
    return effects


def _told(what: str, before: dict[str, Any] | None) -> str:
    """Return what is compared, where the other set's refinement was not kept in its own words."""
    if before is not None and UNKEPT_SUFFIX in before["label"]:
        return what.replace(REFINED_ALIKE, "whose refinement was not kept")
    return what


def _effect(what: str, before: dict, after: dict, without: str, with_: str) -> dict[str, Any]:
    """Return one comparison; the standard error is that of the difference of two means."""
    a, b = before["accuracy"], after["accuracy"]
    gain = b["mean"] - a["mean"]
    error = math.sqrt(a["std"] ** 2 / len(a["runs"]) + b["std"] ** 2 / len(b["runs"]))
    num_students = min(len(a["runs"]), len(b["runs"]))
    text = f"{100 * gain:+.1f} points (standard error {100 * error:.1f})"
    if num_students < 2:
        verdict = f"{100 * gain:+.1f} points: one student says nothing of the noise"
    elif gain > 2 * error:
        verdict = f"{text}: it helps"
    elif gain < -2 * error:
        verdict = f"{text}: it hurts"
    else:
        verdict = f"{text}: not shown to help"
    return {
        "stage": what,
        "compared": [without, with_],
        "metric": "accuracy",
        "gain": gain,
        "standard_error": error,
        "num_students": num_students,
        "verdict": verdict,
    }
