"""Configurations to and from dicts, and what a user gets to read about a wrong one."""

import json
from typing import Any

import pytest

from distillery.errors import ConfigError
from generator.config import (
    BaseConfig,
    DistillConfig,
    GenerateConfig,
    from_dict,
    key_dict,
    to_dict,
)
from robust.config import RefineConfig


def test_a_config_survives_a_trip_through_json() -> None:
    config = DistillConfig(
        images_per_class=3, horizontal_flip=False, base=BaseConfig(reference="pixel"),
        generate=GenerateConfig(guidance_scale=2.5),
    )  # fmt: skip
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_fields_that_came_later_are_no_part_of_a_key_before_they_are_used() -> None:
    later = {
        "constraint_weights", "centralisation_form", "centralisation_beta", "centralisation_floor",
        "youngest_proxy",
    }  # fmt: skip
    whole, key = to_dict(DistillConfig()), key_dict(DistillConfig())
    assert {name for name in whole["refine"] if name not in key["refine"]} == later
    rest = {name: value for name, value in whole["refine"].items() if name not in later}
    assert key == whole | {"refine": rest}
    used = RefineConfig(centralisation_weight=0.1, centralisation_floor=0.5)
    assert key_dict(used) == rest | {"centralisation_weight": 0.1, "centralisation_floor": 0.5}


def test_what_is_left_out_is_default() -> None:
    assert from_dict({}) == DistillConfig()
    assert from_dict({"refine": {"enabled": False}}).refine.enabled is False
    assert from_dict({"refine": {"enabled": False}}).proxy == DistillConfig().proxy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images_per_clas": 3}, "'images_per_clas'; did you mean 'images_per_class'"),
        ({"generate": {"nmu_steps": 3}}, "'generate.nmu_steps'; did you mean 'num_steps'"),
        ({"base": {"pretrain": {"lr": 1.0}}}, r"'base.pretrain.lr'; fields are num_steps, batch"),
        ({"seed": "7"}, "seed must be int, got '7'"),
        ({"seed": True}, "seed must be int, got True"),
        ({"seed": 1.5}, "seed must be int, got 1.5"),
        ({"image_size": "8"}, "image_size must be int or nothing, got '8'"),
        ({"refine": {"enabled": 1}}, "refine.enabled must be bool, got 1"),
        ({"refine": 3}, "refine must be a table of fields, got 3"),
        ({"preset": "smok"}, "preset must be one of default, smoke, got 'smok'"),
        ({"generate": {"sampler": "euler"}}, r"one of dpm-solver\+\+, ddim, got 'euler'"),
        ({"images_per_class": 0}, "must be 1 to 1000, got 0"),
        ({"images_per_class": 1001}, "must be 1 to 1000, got 1001"),
        ({"channels": 2}, "channels must be 1"),
        ({"image_size": 4}, "image_size must be 8 to 1024"),
        ({"num_threads": 0}, "1 or more, got 0"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"generate": {"num_steps": 0}}, "generate.num_steps must be 1 or more, got 0"),
        ({"generate": {"batch_size": 0}}, "generate.batch_size must be 1 or more"),
        ({"generate": {"oversample": 0}}, "generate.oversample must be 1 or more"),
        ({"generate": {"guidance_scale": -1}}, "guidance_scale must be 0 or more, got -1"),
        ({"generate": {"guidance_scale": float("nan")}}, "guidance_scale must be a finite number"),
        ({"finetune": {"learning_rate": float("inf")}}, "learning_rate must be a finite number"),
        ({"generate": {"fidelity_floor": -0.1}}, "fidelity_floor must be 0 to 1, got -0.1"),
        ({"generate": {"fidelity_floor": 1.01}}, "fidelity_floor must be 0 to 1, got 1.01"),
        ({"refine": {"num_steps": 0}}, "refine.num_steps must be 1 or more"),
        ({"refine": {"steps_per_proxy": 0}}, "refine.steps_per_proxy must be 1 or more"),
        ({"refine": {"classes_per_step": 0}}, "refine.classes_per_step must be 1 or more"),
        ({"refine": {"learning_rate": float("nan")}}, "refine.learning_rate must be a finite"),
        ({"refine": {"learning_rate": 0}}, "refine.learning_rate must be above 0"),
        ({"proxy": {"num_clusters": 0}}, "proxy.num_clusters must be 1 or more"),
        ({"select": {"max_reals_per_class": 0}}, "select.max_reals_per_class must be 1 or more"),
        ({"label": {"num_steps": 0}}, "label.num_steps must be 1 or more"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_clear_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


def test_whole_numbers_are_fine_where_a_fraction_is_meant() -> None:
    config = from_dict({"generate": {"guidance_scale": 2}, "refine": {"learning_rate": 1}})
    assert config.generate.guidance_scale == 2.0
    assert isinstance(config.generate.guidance_scale, float)  # so that digests agree
    assert isinstance(config.refine.learning_rate, float)


def test_nothing_is_allowed_where_it_means_open() -> None:
    assert from_dict({"image_size": None}).image_size is None
    with pytest.raises(ConfigError, match="seed must be int, got None"):
        from_dict({"seed": None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"proxy": {"network": "vgg"}}, "network must be one of convnet-d3-w128"),
        ({"evaluate": {"student": {"network": "resnet"}}}, "got 'resnet'"),
        ({"base": {"pretrain": {"num_steps": 0}}}, "pretraining needs num_steps"),
        ({"base": {"pretrain": {"learning_rate": -1.0}}}, "pretrain.learning_rate"),
        ({"finetune": {"label_dropout": 1.5}}, "finetune.label_dropout"),
        ({"finetune": {"ema_decay": 1.0}}, "finetune.ema_decay"),
        ({"base": {"pretrain": {"max_snr": 0.0}}}, "pretrain.max_snr"),
    ],
)
def test_settings_that_no_stage_can_use_are_refused_before_any_work(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(values)
