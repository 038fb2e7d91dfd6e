"""The same job in other words, and the fields that make another one."""

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import ConfigError
from generator.config import DistillConfig, to_dict
from generator.plan import merge
from generator.same_job import Difference, differences, tell

DECIDED = {"image_size": 8, "num_threads": 2, "base": {"reference": "pixel"}}
"""What a plan fills in."""


def job_of(**request: Any) -> dict[str, Any]:
    """Return a job as its file holds it."""
    config = merge(merge(to_dict(DistillConfig()), DECIDED), request)
    return {"request": request, "config": config}


@pytest.mark.parametrize(
    ("first", "now"),
    [
        ({}, {"seed": 0, "images_per_class": 10, "preset": "default"}),
        ({"seed": 0}, {}),
        ({}, {"data": {"dataset": "digits"}, "base": {"reference": "auto"}}),
        ({"refine": {"enabled": True}}, {"refine": {}}),
        ({}, {"finetune": {"preset": "default"}}),
        ({}, {"image_size": 8, "num_threads": 2}),  # as the plan had decided
        ({}, {"base": {"reference": "pixel"}}),
        ({}, {"channels": None}),
        ({"generate": {"guidance_scale": 2}}, {"generate": {"guidance_scale": 2.0}}),
        ({"data": {"dataset": "d/x"}}, {"data": {"dataset": "./d/x"}}),
        ({"data": {"dataset": "d/x/"}}, {"data": {"dataset": "d/../d/x"}}),
    ],
)
def test_other_words_for_the_same_job(first: dict[str, Any], now: dict[str, Any]) -> None:
    assert differences(job_of(**first), now) == []


def test_a_path_is_the_same_from_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(data={"dataset": "d/x"}, base={"reference": "mine"})
    now = {"data": {"dataset": str(tmp_path / "d/x")}, "base": {"reference": "./mine"}}
    assert differences(job, now) == []


@pytest.mark.parametrize(
    ("first", "now", "found"),
    [
        ({}, {"seed": 1}, Difference("seed", 0, 1)),
        ({"seed": 1}, {}, Difference("seed", 1, 0)),
        ({"images_per_class": 3}, {}, Difference("images_per_class", 3, 10)),
        # a default of the plan's is not known here: it may be another than the class's
        ({"refine": {"num_steps": 120}}, {}, Difference("refine.num_steps", 120, "left open")),
        ({"num_threads": 2}, {}, Difference("num_threads", 2, "left open")),
        ({"evaluate": {"controls": True}}, {}, Difference("evaluate.controls", True, "left open")),
        ({}, {"image_size": 16}, Difference("image_size", 8, 16)),
        ({}, {"data": {"dataset": "./digits"}}, Difference("data.dataset", "digits", "./digits")),
    ],
)
def test_another_job(first: dict[str, Any], now: dict[str, Any], found: Difference) -> None:
    assert differences(job_of(**first), now) == [found]


def test_three_fields_are_told() -> None:
    found = [Difference(name, 0, "x" * (99 if name == "b" else 1)) for name in "abcd"]
    long = "x" * 57 + "..."
    assert tell(found[:1]) == "a 0 (not x)"
    assert tell(found) == f"a 0 (not x), b 0 (not {long}), c 0 (not x) and 1 more that differ"


def test_a_request_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'num_steps'"):
        differences(job_of(), {"refine": {"num_stps": 3}})


def test_a_job_of_another_version_is_compared_by_the_fields_it_had() -> None:
    job = job_of(seed=1)
    job["request"]["gone"] = {"field": 1}
    assert [one.field for one in differences(job, {"seed": 1})] == ["gone.field"]
