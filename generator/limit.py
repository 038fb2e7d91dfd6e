"""The evaluation of a default job, kept to a third of it.

Whatever the load of the machine, the same request gives the same job: shares are taken at nominal
prices, with nothing cached.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from generator.config import DistillConfig
from generator.planned import Decision, Look, Plan
from generator.work import BaseDescription, describe_base, nominal_prices, work_of

EVALUATION_SHARE = 1 / 3
"""At most this much of a default job is evaluation."""


def limit_evaluation(plan: Plan, request: Mapping[str, Any]) -> Plan:
    """Return the plan with an evaluation of at most a third of the job, as far as that is open.

    First fewer students (not below 2: one says nothing of the noise), then no controls, and with
    them gone as many students as before, then fewer, down to one. What the user set stays, and so
    does the preset `smoke`, which must go through everything.

    Args:
        plan: As `generator.plan` made it.
        request: What the user set, the nested dict that the plan was made from.
    """
    if plan.config.preset == "smoke":
        return plan
    base = describe_base(plan.config, len(plan.look.class_names))
    asked = request.get("evaluate", {})
    for change, text in _reductions(plan.config, asked):
        share = evaluation_share(plan.config, plan.look, base)
        if share <= EVALUATION_SHARE:
            break
        plan = _reduce(plan, change, text, share)
    return plan


def evaluation_share(config: DistillConfig, look: Look, base: BaseDescription) -> float:
    """Return the evaluation's share of a job with nothing cached, at nominal prices."""
    seconds = work_of(config, look, base, nominal_prices(config, base))
    return seconds["evaluate"] / sum(seconds.values())


def _reductions(
    config: DistillConfig, asked: Mapping[str, Any]
) -> list[tuple[dict[str, Any], str]]:
    """Return the changes that may be tried, in order; those the user spoke about are left out."""
    seeds, controls = config.evaluate.num_seeds, config.evaluate.controls
    may_drop = controls and asked.get("controls") is None
    fewer = range(seeds - 1, 0, -1) if asked.get("num_seeds") is None else range(0)
    found: list[tuple[dict[str, Any], str]] = []
    if controls:
        found += [({"num_seeds": n}, _students(n)) for n in fewer if n >= 2]
    if may_drop:
        found.append(({"num_seeds": seeds, "controls": False}, "no controls"))
        found += [({"num_seeds": n}, f"{_students(n)}, no controls") for n in fewer]
    else:
        found += [({"num_seeds": n}, _students(n)) for n in fewer if n == 1 or not controls]
    return found


def _students(count: int) -> str:
    return f"{count} student{'s' * (count > 1)} a set"


def _reduce(plan: Plan, change: Mapping[str, Any], text: str, share: float) -> Plan:
    """Return the plan with one change of the evaluation, and the decision that says so."""
    others = tuple(d for d in plan.decisions if d.what != "evaluation")
    reason = f"more would be {100 * share:.0f} % of the job; --students and --controls overrule it"
    config = replace(plan.config, evaluate=replace(plan.config.evaluate, **change))
    return replace(plan, config=config, decisions=(*others, Decision("evaluation", text, reason)))
