"""Which starts are refined, which may be kept, and which one is: one place for each decision."""

import math
from dataclasses import replace

import pytest

from distillery.errors import ConfigError
from distillery.evaluation.config import EvaluateConfig
from generator.config import DistillConfig, from_dict
from generator.refinement import best_of
from generator.starts import kept_start, refined_starts, rivals, start_word
from robust.config import RefineConfig


def asking(start: str, *, controls: bool = True, enabled: bool = True) -> DistillConfig:
    evaluate = EvaluateConfig(controls=controls)
    return DistillConfig(refine=RefineConfig(start=start, enabled=enabled), evaluate=evaluate)  # type: ignore[arg-type]


BOTH, GENERATED, REAL = ("generated", "real"), ("generated",), ("real",)


@pytest.mark.parametrize(
    ("start", "controls", "is_fallback", "competing", "refined"),
    [
        ("auto", True, False, BOTH, BOTH),
        ("auto", False, False, BOTH, BOTH),
        ("auto", True, True, REAL, REAL),  # nothing generated is left to compare with
        ("generated", True, False, GENERATED, BOTH),  # the real one for the table
        ("generated", False, False, GENERATED, GENERATED),
        ("generated", True, True, GENERATED, BOTH),
        ("real", True, False, REAL, BOTH),
        ("real", False, False, REAL, REAL),
        ("real", True, True, REAL, REAL),
    ],
)
def test_what_is_refined_follows_from_the_request(
    start: str, controls: bool, is_fallback: bool, competing: tuple, refined: tuple
) -> None:
    config = asking(start, controls=controls)
    assert rivals(config, is_fallback=is_fallback) == competing
    assert refined_starts(config, is_fallback=is_fallback) == refined


def test_nothing_is_refined_where_refinement_is_off() -> None:
    assert refined_starts(asking("auto", enabled=False)) == ()
    with pytest.raises(ConfigError, match="refine.start real would be ignored without"):
        asking("real", enabled=False)
    with pytest.raises(ConfigError, match="refine.start must be one of auto, generated, real"):
        from_dict({"refine": {"start": "herding"}})


@pytest.mark.parametrize("order", [BOTH, ("real", "generated")])
def test_real_images_are_kept_only_where_they_are_better_beyond_chance(order: tuple) -> None:
    assert kept_start(order, is_real_better=True) == "real"
    assert kept_start(order, is_real_better=False) == "generated"


def test_a_start_without_a_rival_is_kept() -> None:
    assert kept_start(REAL, is_real_better=False) == "real"
    assert kept_start(GENERATED, is_real_better=False) == "generated"


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 0.5, 0.7], 1),
        ([0.5, 0.5], 0),
        ([math.nan, 0.5], 1),
        ([0.5, math.nan], 0),
        ([0.5, -math.inf], 0),
        ([math.nan, math.inf], 0),
    ],
)
def test_the_best_attempt_has_the_lowest_score_that_is_a_number(
    scores: list[float], best: int
) -> None:
    assert best_of(scores) == best


def test_a_reader_can_tell_why_images_are_real() -> None:
    auto, asked = asking("auto"), asking("real")
    assert start_word(auto, "generated", is_fallback=False) == "generated"
    assert start_word(auto, "real", is_fallback=False) == "real_by_validation"
    assert start_word(auto, "real", is_fallback=True) == "real"
    assert start_word(asked, "real", is_fallback=False) == "real_by_request"
    assert start_word(asked, "real", is_fallback=True) == "real_by_request"
    chosen = replace(auto, refine=replace(auto.refine, start="generated"))
    assert start_word(chosen, "generated", is_fallback=True) == "real"  # chosen from real images
