"""Whether two requests ask for the same job, in whatever words, and where they differ.

A request names the fields that a user set. The same job can be asked for with a default spelled
out, a path written otherwise, or a field set to what the plan had decided.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config import BaseKind, PretrainConfig
from generator.config import DistillConfig, from_dict, to_dict
from generator.defaults import Situation, default_values

PLACES = ("data.dataset", "base.reference")
"""Fields that may hold a path."""
WORDS = ("digits", "auto", "pixel")
"""What is no path there, whatever lies in the current folder."""
REPEATED = {"images_per_class", "preset", "finetune.preset"}
"""Among the fields of `default_values` those that the plan never decides."""
KINDS: tuple[BaseKind, ...] = ("pixel", "latent")
PRESETS: tuple[Literal["default", "smoke"], ...] = ("default", "smoke")
MOST_TOLD = 3
"""Fields that a sentence names."""
OPEN = "left open"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that makes two jobs of two requests."""

    field: str
    has: Any
    """Its value in the job that is there."""
    asked: Any
    """What is asked for now."""


def differences(job: Mapping[str, Any], request: Mapping[str, Any]) -> list[Difference]:
    """Return the fields in which a request asks for another job than the one that is there.

    Args:
        job: Content of its `job.json`.
        request: What is asked for now.

    Raises:
        ConfigError: If the request has an unknown field, or one out of range.
    """
    from_dict(request)
    first, now = dict(_fields(job["request"])), dict(_fields(request))
    resolved, defaults = dict(_fields(job["config"])), dict(_fields(to_dict(DistillConfig())))
    found = []
    for name in sorted(first.keys() | now.keys()):
        unset = OPEN if name in _decided() else defaults.get(name, OPEN)
        has, asked = first.get(name, unset), now.get(name, unset)
        if name not in first and name in now and asked == resolved.get(name):
            continue  # the plan decided just this
        if _place(name, has) != _place(name, asked):
            found.append(Difference(name, resolved.get(name, has), asked))
    return found


def tell(found: list[Difference]) -> str:
    """Return differences in a few words: `seed 0 (not 1), images_per_class 3 (not 10)`."""
    told = ", ".join(
        f"{one.field} {_short(one.has)} (not {_short(one.asked)})" for one in found[:MOST_TOLD]
    )
    more = len(found) - MOST_TOLD
    return told + (f" and {more} more that differ" if more > 0 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of nested dicts that is set, by its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{path}{name}.")
        elif value is not None:
            yield path + name, list(value) if isinstance(value, tuple) else value


def _place(field: str, value: Any) -> Any:
    """Return a path in the one way to write it; other values as they are."""
    if field not in PLACES or not isinstance(value, str) or value in WORDS:
        return value
    try:
        return os.path.realpath(Path(value).expanduser())
    except (OSError, ValueError, RuntimeError):  # no path at all
        return value


@functools.cache
def _decided() -> frozenset[str]:
    """Return the fields that a plan decides by data, base and machine where a user leaves them.

    Nothing is known of what such a field would be in another plan, so it is compared as it is.
    """
    found = {"evaluate.controls", "evaluate.num_seeds"}  # see `generator.limit`
    found |= {f"base.pretrain.{name}" for name in to_dict(PretrainConfig())}  # of a base found
    for kind, preset, size in itertools.product(KINDS, PRESETS, (8, 32, 64)):
        situation = Situation(
            kind=kind, preset=preset, minimax_preset="default", image_size=size, channels=3,
            num_classes=10, num_train=1000, images_per_class=1, num_threads=1,
        )  # fmt: skip
        found |= {name for name, _ in _fields(default_values(situation))}
    return frozenset(found - REPEATED)
