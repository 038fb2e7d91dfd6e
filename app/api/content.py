"""What bodies and answers a route takes and gives: refusals of others."""

from typing import Any

from fastapi import Depends, Request

from app.api.problems import Problem


async def _json_only(request: Request) -> None:
    """Refuse bodies that do not say that they are JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem("unsupported_media_type", f"send application/json, got {ascii(kind)[:60]}")


JsonOnly: Any = Depends(_json_only)


def accepts(request: Request, *kinds: str) -> str:
    """Return the first of these media types that a request likes best.

    Args:
        request: With its `Accept` header; without one everything is fine.
        kinds: What can be sent, the preferred one first.

    Raises:
        Problem: If none of them can be sent.
    """
    header = request.headers.get("accept", "*/*").lower()
    weights: dict[str, float] = {}
    for part in header.split(","):
        name, _, parameters = part.strip().partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            key, _, value = parameter.strip().partition("=")
            if key == "q":
                try:
                    weight = min(max(float(value), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        weights[name.strip()] = weight
    best, best_weight = None, 0.0
    for kind in kinds:
        family = kind.partition("/")[0] + "/*"
        weight = weights.get(kind, weights.get(family, weights.get("*/*", 0.0)))
        if weight > best_weight:
            best, best_weight = kind, weight
    if best is None:
        raise Problem("not_acceptable", f"this address answers with {' or '.join(kinds)}")
    return best
