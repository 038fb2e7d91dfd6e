"""Options add up to a request that holds what the user set, and nothing else."""

from pathlib import Path

import pytest

from app.cli.options import RequestOptions, default_folder, request_of
from distillery.errors import ConfigError
from generator.config import DistillConfig, from_dict


def test_nothing_said_is_an_empty_request() -> None:
    assert request_of(RequestOptions()) == {}


def test_every_option_reaches_a_field_of_the_configuration() -> None:
    request = request_of(
        RequestOptions(
            dataset="photos", ipc=5, preset="smoke", seed=7, image_size=16, flip=False,
            base="org/model", revision="abc", download=True, minimax="printed", no_finetune=True,
            no_select=True, no_refine=True, no_soft_labels=True, controls=False, students=4,
            threads=1,
        )
    )  # fmt: skip
    config: DistillConfig = from_dict(request)  # refuses a path that is no field
    assert (config.data.dataset, config.images_per_class, config.preset) == ("photos", 5, "smoke")
    assert (config.seed, config.image_size, config.horizontal_flip) == (7, 16, False)
    assert (config.base.reference, config.base.revision) == ("org/model", "abc")
    assert config.base.allow_download and config.data.allow_download
    assert config.finetune.preset == "printed" and not config.finetune.enabled
    assert config.select.method == "random"
    assert not config.refine.enabled and not config.label.enabled
    assert not config.evaluate.controls and config.evaluate.num_seeds == 4
    assert config.num_threads == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("refine.num_steps=40", 40), ("refine.num_steps=4e1", 40.0),
        ("refine.num_steps=null", None),
        ("refine.num_steps=true", True), ("refine.num_steps=many words", "many words"),
        ("refine.num_steps=", ""),
        ('refine.num_steps="40"', "40"), ("refine.num_steps=a=b", "a=b"),
    ],
)  # fmt: skip
def test_set_takes_json_or_plain_text(text: str, value: object) -> None:
    assert request_of(RequestOptions(set_=[text])) == {"refine": {"num_steps": value}}


def test_set_goes_over_options_and_may_name_a_whole_table() -> None:
    options = RequestOptions(ipc=3, set_=["images_per_class=4", 'proxy={"robust": false}'])
    assert request_of(options) == {"images_per_class": 4, "proxy": {"robust": False}}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["refine"], "FIELD=VALUE"), (["=3"], "FIELD=VALUE"), (["a..b=3"], "FIELD=VALUE"),
        (["seed=1", "seed.x=2"], "'seed' is a value"), (["refine.learning_rate=NaN"], "NaN"),
        (["refine.learning_rate=-Infinity"], "-Infinity"), (["seed=" + "[" * 100000], "too deep"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_read_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        request_of(RequestOptions(set_=texts))


@pytest.mark.parametrize("count", [0, -2, 100_000])
def test_threads_must_be_few_enough_to_start(count: int) -> None:
    with pytest.raises(ConfigError, match=f"--threads must be 1 to 256, got {count}"):
        request_of(RequestOptions(threads=count))
    with pytest.raises(ConfigError, match="--threads"):
        request_of(RequestOptions(set_=[f"num_threads={count}"]))


def test_a_job_without_a_folder_gets_one_named_after_its_request(tmp_path: Path) -> None:
    assert default_folder({}) == Path("runs/digits-ipc10-seed0")
    request = {"data": {"dataset": "org/na me@v1"}, "images_per_class": 1, "preset": "smoke"}
    assert default_folder(request) == Path("runs/org-na-me-v1-ipc1-smoke-seed0")
    photos = tmp_path / "my photos"
    photos.mkdir()
    request = {"data": {"dataset": f"{photos}/"}, "seed": 3}
    assert default_folder(request) == Path("runs/my-photos-ipc10-seed3")
    for odd in ("..\x00", "/", "~nobody-here/x", "x" * 5000):
        assert default_folder({"data": {"dataset": odd}}).parent == Path("runs")
