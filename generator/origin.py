"""Where the images of a result come from, and why where they are real.

A reader can tell samples that failed their check from real images that validation preferred.
"""

from distillery.bundle.schema import Origin
from generator.stage import Context
from generator.starts import Word, start_word


def word_of(context: Context) -> Word:
    """Return what the bundle calls the start of its images."""
    kept, is_fallback = context.facts("refine")["start"], context.facts("score")["fallback"]
    return start_word(context.config, kept, is_fallback=is_fallback)


def image_origin(context: Context) -> Origin:
    """Return where the images of the result come from."""
    if word_of(context) == "generated":
        return "generated"
    return "refined" if context.facts("refine")["kept"] else "real"


def start_of(context: Context) -> dict[str, str | None]:
    """Return what the images started from, and why real images were kept where none failed."""
    word, reason = word_of(context), None
    if word == "real_by_validation":
        reason = _preference(context)
    elif word == "real_by_request":
        reason = "they were asked for (refine.start real)"
    kept = context.facts("refine")["start"]
    return {"kept": kept, "word": word, "origin": image_origin(context), "reason": reason}


def _preference(context: Context) -> str:
    """Return by which scores validation preferred the real start."""
    facts = context.facts("refine")
    starts, gain = facts["starts"], facts["gain"]
    check = "the generator's samples passed their check"
    if not context.facts("generate")["floor"]:
        check = "no check of the generator's samples was asked for"
    best = {start: facts["set_scores"][facts["kept"]] for start, facts in starts.items()}
    return (
        "students of them did better on the validation split (robust loss of the best set "
        f"{best['real']:.3f} from k-medoids of real images, {best['generated']:.3f} from generated "
        f"ones, refined alike; the difference has a standard error of {gain['error']:.3f}); {check}"
    )


def fallback_of(context: Context) -> dict[str, str] | None:
    """Return why real images took the place of samples and what became of them, None if not."""
    origin = image_origin(context)
    if word_of(context) != "real":
        return None
    if origin == "refined":
        outcome = "real images were chosen and refined instead"
    else:
        switched_off = not context.config.refine.enabled
        why = "refinement is switched off" if switched_off else "no refinement was better"
        outcome = f"real images were chosen instead, and are as they were: {why}"
    generated = context.facts("generate")
    reason = (
        f"a judge of real images agreed with {100 * generated['fidelity']:.1f} % of the labels of "
        f"the generated samples, under the floor of {100 * generated['floor']:.0f} %; {outcome}"
    )
    return {"reason": reason, "origin": origin}
