"""Plans: from a request to a complete configuration, with reasons, or a sentence why not."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generator_helpers import MACHINE, SmokeJob
from PIL import Image

from distillery.data.augment import AFFINE
from distillery.errors import ConfigError, DataError, ModelError
from distillery.evaluation.training import augmentation_of
from distillery.files import write_json
from distillery.models.facts import FACTS_FILE
from generator.config import from_dict, to_dict
from generator.pipeline import STAGES
from generator.plan import look_at, make_plan, merge
from generator.planned import Plan
from generator.stage import stage_key
from generator.stages.base import judge_recipe, settings


def plan(cache: Path, **request: Any) -> Plan:
    return make_plan(request, cache=cache, machine=MACHINE)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of colour images, 14 and 20, of 40 x 50 pixels."""
    rng = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 20)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_an_empty_request_is_a_complete_job(cache: Path) -> None:
    config = plan(cache).config
    assert (config.data.dataset, config.images_per_class, config.image_size) == ("digits", 10, 8)
    assert config.channels == 1 and config.horizontal_flip is False
    assert config.base.reference == "pixel" and config.num_threads == 1
    open_fields = {
        "revision", "label_column", "ema_decay", "protocol", "protocol_epochs", "protocol_network",
    }  # fmt: skip

    def unset(values: dict) -> set[str]:
        found = {name for name, value in values.items() if value is None}
        return found.union(*(unset(v) for v in values.values() if isinstance(v, dict)))

    assert unset(to_dict(config)) <= open_fields  # everything that a stage needs is filled in
    assert from_dict(to_dict(config)) == config


def test_what_the_user_says_comes_before_every_default(cache: Path) -> None:
    config = plan(
        cache, generate={"guidance_scale": 2.5}, refine={"num_steps": 7}, num_threads=3,
        finetune={"diversity_weight": 0.5, "num_steps": 9}, evaluate={"student": {"num_steps": 11}},
    ).config  # fmt: skip
    assert config.generate.guidance_scale == 2.5 and config.num_threads == 3
    assert config.refine.num_steps == 7
    assert config.finetune.diversity_weight == 0.5 and config.finetune.num_steps == 9
    assert config.evaluate.student.num_steps == 11
    assert config.evaluate.student.augmentation == "affine"  # its neighbours stay


def test_smoke_is_smaller_in_every_stage_that_takes_long(cache: Path) -> None:
    full, smoke = plan(cache).config, plan(cache, preset="smoke").config
    for part in ("finetune", "generate", "proxy", "refine", "label"):
        assert getattr(smoke, part).num_steps < getattr(full, part).num_steps, part
    assert smoke.base.pretrain.num_steps < full.base.pretrain.num_steps
    assert smoke.evaluate.num_seeds == 1


def test_named_minimax_presets_bring_their_values(cache: Path) -> None:
    reference = plan(cache, finetune={"preset": "reference"}).config.finetune
    assert (reference.reduction, reference.ema_decay) == ("scalar", 0.9999)
    printed = plan(cache, finetune={"preset": "printed"}).config.finetune
    assert printed.prediction == "noisy_minus_eps"
    with pytest.raises(ConfigError, match="finetune.preset must be one of default, reference"):
        plan(cache, finetune={"preset": "papers"})


def test_guidance_falls_as_images_per_class_rise_and_the_user_is_told(cache: Path) -> None:
    scales = [plan(cache, images_per_class=n).config.generate.guidance_scale for n in (1, 10, 50)]
    assert scales[0] > scales[1] > scales[2] >= 1.0
    told = {d.what: d for d in plan(cache).decisions}
    assert "this job has 10" in told["guidance scale"].reason
    assert {"base model", "image size", "mirroring"} <= set(told)
    asked = plan(cache, generate={"guidance_scale": 2.0}, image_size=8, horizontal_flip=False)
    assert {d.what for d in asked.decisions} == {"base model"}  # what was asked for needs no reason


def test_a_folder_is_counted_and_its_images_shape_the_job(photos: Path, cache: Path) -> None:
    made = plan(cache, data={"dataset": str(photos)}, images_per_class=3)
    assert made.look.class_names == ("cat", "dog") and made.look.num_images == 34
    assert made.look.smallest_class == int(14 * 0.8 * 0.9)
    assert made.config.image_size == 32 and made.config.channels == 3
    assert made.config.horizontal_flip is True
    assert made.config.evaluate.student.augmentation == "dsa"


def test_more_images_than_the_smallest_class_trains_on_are_refused(
    photos: Path, cache: Path
) -> None:
    with pytest.raises(DataError, match=r"12 images per class .* of the 2 classes has only 10"):
        plan(cache, data={"dataset": str(photos)}, images_per_class=12)


def test_splits_that_are_there_are_counted_as_they_are(photos: Path) -> None:
    (photos / "train").mkdir()
    for name in ("cat", "dog"):
        (photos / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir(parents=True)
        (photos / "train" / name / "0.png").rename(photos / "test" / name / "0.png")
    look = look_at(from_dict({"data": {"dataset": str(photos)}}).data)
    assert look.smallest_class == 12  # of 13, one is a validation image


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        ({"data": {"dataset": "no/such/folder"}}, DataError, "no dataset"),
        ({"base": {"reference": "no-such-base"}}, ModelError, "no base model 'no-such-base'"),
        ({"device": "cuda"}, ConfigError, "torch sees no GPU"),
        ({"imges_per_class": 3}, ConfigError, "did you mean 'images_per_class'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work(
    cache: Path, request_: dict, kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_plan(request_, cache=cache, machine=MACHINE)
    assert not cache.exists()


@pytest.mark.parametrize("field", ["base.reference", "select.features", "label.teacher"])
def test_a_home_that_is_not_there_is_no_crash(cache: Path, field: str) -> None:
    part, name = field.split(".")
    with pytest.raises(ModelError, match="no (base|vision) model '~nosuchuser/x'"):
        plan(cache, **{part: {name: "~nosuchuser/x"}})


def test_the_same_words_in_another_folder_are_another_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = from_dict({"base": {"reference": "dit"}})
    places = [tmp_path / "a", tmp_path / "b"]
    seen = []
    for place in places:
        (place / "dit").mkdir(parents=True)
        (place / "dit" / "weights").write_bytes(b"1")
        os.utime(place / "dit" / "weights", ns=(0, 0))
        monkeypatch.chdir(place)
        seen.append(settings(config)["base"])
    (places[1] / "dit" / "weights").write_bytes(b"2")  # as long, but written later
    seen.append(settings(config)["base"])
    assert seen[0] != seen[1] != seen[2] and seen[2] == settings(config)["base"]


def test_no_mirroring_holds_for_every_network_that_looks_at_images(
    photos: Path, cache: Path
) -> None:
    asked: dict[str, Any] = {"data": {"dataset": str(photos)}, "images_per_class": 3}
    made = plan(cache, **asked, horizontal_flip=False).config
    assert made.evaluate.student.augmentation == "dsa-no-flip"
    assert judge_recipe(made).augmentation == "dsa-no-flip"
    said = {"evaluate": {"student": {"augmentation": "dsa"}}}
    made = plan(cache, **asked, **said, horizontal_flip=False).config
    assert made.evaluate.student.augmentation == "dsa-no-flip"
    said = {"evaluate": {"student": {"augmentation": "affine-flip"}}}
    made = plan(cache, **asked, **said, horizontal_flip=False).config
    assert made.evaluate.student.augmentation == "affine"


def test_mirroring_that_was_asked_for_holds_for_every_network(cache: Path) -> None:
    made = plan(cache, images_per_class=3, horizontal_flip=True).config
    assert made.channels == 1 and made.evaluate.student.augmentation == "affine-flip"
    assert judge_recipe(made).augmentation == "affine-flip"
    augmentation = augmentation_of(made.evaluate.student)
    assert augmentation is not None and augmentation == replace(AFFINE, flip=True)
    assert plan(cache, images_per_class=3).config.evaluate.student.augmentation == "affine"
    for said, expected in (("dsa-no-flip", "dsa"), ("none", "none")):
        student = {"evaluate": {"student": {"augmentation": said}}}
        made = plan(cache, images_per_class=3, horizontal_flip=True, **student).config
        assert made.evaluate.student.augmentation == expected


def test_an_augmentation_that_was_named_stays_where_nothing_was_said_of_mirroring(
    photos: Path, cache: Path
) -> None:
    student = {"evaluate": {"student": {"augmentation": "affine"}}}
    made = plan(cache, data={"dataset": str(photos)}, images_per_class=3, **student).config
    assert made.horizontal_flip and made.evaluate.student.augmentation == "affine"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"data": {"test_fraction": 0.3}}, "data.test_fraction would be ignored"),
        ({"data": {"revision": "main"}}, "data.revision 'main' would be ignored"),
        ({"data": {"label_column": "y"}}, "data.label_column 'y' would be ignored"),
        ({"base": {"reference": "pixel", "revision": "v1"}}, "--revision v1 would be ignored"),
        (
            {"finetune": {"precision": "fp16"}},
            "precision fp16 needs a GPU, got a CPU: use no or bf16",
        ),
        ({"evaluate": {"student": {"network": "convnet-d9-w1"}}}, "use a depth of 3 or less"),
        ({"proxy": {"network": "convnet-d4-w1"}}, "proxy.network convnet-d4-w1 does not fit"),
        ({"proxy": {"learning_rate": -1}}, "proxy.learning_rate must be above 0, got -1"),
        ({"proxy": {"accuracy_floor": -1}}, "proxy.accuracy_floor must be 0 or more, got -1"),
        ({"select": {"cvar_weight": -1}}, "select.cvar_weight must be 0 or more, got -1"),
        ({"select": {"features": ""}}, "select.features must be proxy, or the folder"),
        (
            {"refine": {"enabled": False, "covariance_weight": 0.01}},
            "refine's constraints would be ignored without refinement",
        ),
        ({"evaluate": {"num_seeds": 0}}, r"\(--students\) must be 1 or more, got 0"),
    ],
)
def test_what_would_be_ignored_or_fail_late_is_refused(
    cache: Path, request_: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(request_, cache=cache, machine=MACHINE)


def test_a_method_that_refines_nothing_may_be_undefined_at_this_number(cache: Path) -> None:
    asked = {"objective": "dc", "enabled": False}
    assert plan(cache, images_per_class=15, refine=asked).config.refine.objective == "dc"


def test_a_precision_that_nothing_computes_in_is_left_alone(cache: Path) -> None:
    assert plan(cache, finetune={"precision": "fp16", "enabled": False}).config.device == "cpu"


def test_a_class_that_is_too_small_to_train_is_refused_with_the_flag(
    photos: Path, cache: Path
) -> None:
    for path in list((photos / "cat").iterdir())[3:]:
        path.unlink()
    asked = {"dataset": str(photos)}
    with pytest.raises(DataError, match=r"'cat' has 1 .*--set data.min_images_per_class=1$"):
        plan(cache, data=asked, images_per_class=1)
    made = plan(cache, data={**asked, "min_images_per_class": 1}, images_per_class=1)
    assert made.look.fewest_train == ("cat", 1)


def test_notes_on_the_data_are_warnings_of_the_plan(photos: Path, cache: Path) -> None:
    (photos / "empty").mkdir()
    made = plan(cache, data={"dataset": str(photos)}, images_per_class=3)
    assert "1 folder without images was left out: 'empty'" in made.warnings
    assert not plan(cache).look.notes  # digits have nothing to tell


def test_a_dataset_of_the_hub_is_pinned_to_its_commit(
    photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = photos.rename(photos.with_name("0123abc"))
    asked: list[str | None] = []

    def found(repo_id: str, revision: str | None, allow_download: bool) -> Path:
        asked.append(revision)
        return snapshot

    monkeypatch.setattr("distillery.data.sources.hub._snapshot", found)
    config = plan(cache, data={"dataset": "org/photos@main"}, images_per_class=3).config
    assert (config.data.dataset, config.data.revision) == ("org/photos", "0123abc")
    look_at(config.data)
    assert asked == ["main", "0123abc"]


def test_colours_that_a_gray_base_drops_are_warned_of(
    photos: Path, cache: Path, tmp_path: Path
) -> None:
    base = tmp_path / "gray-base"
    (base / "transformer").mkdir(parents=True)
    shape = {"sample_size": 32, "in_channels": 1, "num_embeds_ada_norm": 2}
    write_json(base / "transformer" / "config.json", shape)
    write_json(base / FACTS_FILE, {"class_names": ["cat", "dog"]})
    asked: dict[str, Any] = {
        "data": {"dataset": str(photos)}, "images_per_class": 3, "base": {"reference": str(base)},
    }  # fmt: skip
    made = plan(cache, **asked)
    assert made.config.channels == 1
    (said,) = [text for text in made.warnings if "turned gray" in text]
    assert "gray-base makes gray ones" in said and "--set channels=1" in said
    assert not any("turned gray" in text for text in plan(cache, **asked, channels=1).warnings)


def test_classes_that_given_splits_lack_are_told_before_the_run(photos: Path) -> None:
    (photos / "train").mkdir()
    for name in ("cat", "dog"):
        (photos / name).rename(photos / "train" / name)
    (photos / "test" / "dog").mkdir(parents=True)
    (photos / "train" / "dog" / "0.png").rename(photos / "test" / "dog" / "0.png")
    notes = look_at(from_dict({"data": {"dataset": str(photos)}}).data).notes
    assert notes == ("class 'cat' has no test images: figures say nothing of it",)


def test_a_large_pixel_base_is_warned_of(photos: Path, cache: Path) -> None:
    asked: dict[str, Any] = {"data": {"dataset": str(photos)}, "images_per_class": 3}
    assert not any("takes hours" in text for text in plan(cache, **asked).warnings)
    assert any("takes hours" in text for text in plan(cache, **asked, image_size=96).warnings)


def test_merging_lays_fields_over_each_other() -> None:
    values = {"a": {"b": 1, "c": 2}, "d": 3}
    merged = merge(values, {"a": {"b": 9, "e": None}, "d": None, "f": {"g": 1}})
    assert merged == {"a": {"b": 9, "c": 2, "e": None}, "d": 3, "f": {"g": 1}}
    assert values == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("changes", [{}, {"horizontal_flip": True}, {"num_threads": 2}])
def test_a_base_that_the_plan_takes_from_the_cache_is_in_the_cache(
    smoke: SmokeJob, changes: dict[str, Any]
) -> None:
    """Else the run would pretrain anew what the plan calls there and free of cost."""
    request = {**smoke.job["request"], **changes, "base": {}}
    made = make_plan(request, cache=smoke.cache, machine=MACHINE)
    done = {stage.name: stage for stage in smoke.result.stages}
    base = next(stage for stage in STAGES if stage.name == "base")
    is_there = (smoke.cache / f"base-{stage_key(base, made.config, done)[:16]}").exists()
    assert ("from the cache" in made.decisions[0].choice) == is_there
    assert is_there == (changes == {})


def test_a_cached_base_is_for_the_same_images_only(smoke: SmokeJob) -> None:
    request = {**smoke.job["request"], "base": {}, "data": {"split_seed": 1}}
    made = make_plan(request, cache=smoke.cache, machine=MACHINE)
    assert "from the cache" not in made.decisions[0].choice


def test_a_cached_base_of_another_seed_is_left_alone(smoke: SmokeJob) -> None:
    request = {**smoke.job["request"], "base": {"pretrain": {"base_seed": 1}}}
    made = make_plan(request, cache=smoke.cache, machine=MACHINE)
    assert "from the cache" not in made.decisions[0].choice
    assert made.config.base.pretrain.base_seed == 1


def test_a_full_job_does_not_take_what_a_smoke_run_left_behind(smoke: SmokeJob) -> None:
    made = make_plan({"num_threads": 1}, cache=smoke.cache, machine=MACHINE)
    assert "from the cache" not in made.decisions[0].choice
