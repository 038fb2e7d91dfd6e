"""The standing of a job: shares never fall, and a resumed stage does not look fast."""

import pytest

from app.cli.tracker import Tracker
from distillery.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_stages_weigh_as_expected() -> None:
    tracker = Tracker(["a", "b"], {"a": 10.0, "b": 30.0}, Clock())
    assert tracker.update(Progress("a", 5, 10)).overall == pytest.approx(5 / 40)
    assert tracker.finish("a", 10.0, was_cached=False).overall == pytest.approx(10 / 40)
    assert tracker.update(Progress("b", 1, 2)).overall == pytest.approx(25 / 40)
    assert tracker.finish("b", 30.0, was_cached=False).overall == pytest.approx(1.0)


def test_time_left_counts_from_where_the_counting_began() -> None:
    clock = Clock()
    tracker = Tracker(["a"], {"a": 100.0}, clock)
    assert tracker.update(Progress("a", 50, 100)).phase_left_s is None  # a resumed stage
    clock.now += 10
    assert tracker.update(Progress("a", 60, 100)).phase_left_s == pytest.approx(40.0)


def test_a_second_count_inside_a_stage_does_not_take_progress_back() -> None:
    tracker = Tracker(["a", "b"], {"a": 1.0, "b": 1.0}, Clock())
    tracker.update(Progress("a", 100, 100, "training"))
    standing = tracker.update(Progress("a", 1, 40, "training the judge"))
    assert standing.overall == pytest.approx(0.5)
    assert standing.share == pytest.approx(1 / 40)


def test_the_pace_of_finished_stages_corrects_the_rest() -> None:
    tracker = Tracker(["a", "b"], {"a": 10.0, "b": 10.0}, Clock())
    assert tracker.finish("a", 20.0, was_cached=False).left_s == pytest.approx(20.0)


def test_a_cached_stage_says_nothing_of_the_pace() -> None:
    tracker = Tracker(["a", "b"], {"a": 10.0, "b": 10.0}, Clock())
    assert tracker.finish("a", 500.0, was_cached=True).left_s == pytest.approx(10.0)


def test_unknown_stages_and_empty_counts_do_no_harm() -> None:
    tracker = Tracker(["a"], {}, Clock())
    assert tracker.update(Progress("elsewhere", 0, 0)).share == 0.0
    assert tracker.finish("elsewhere", 1.0, was_cached=False).overall == 0.0
