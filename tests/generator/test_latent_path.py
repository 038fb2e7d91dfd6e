"""A named DiT pipeline, from the plan to the bundle and back into a stock pipeline."""

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiTPipeline
from latent_helpers import facts, plan_of, run, write_dataset, write_pipeline

import distillery
from distillery.errors import ConfigError, JobError, ModelError
from distillery.files import read_json, write_json
from distillery.models.class_rows import imagenet_wnids
from distillery.models.dit import label_tables
from generator.export import export_finetuned

LABELS = {0: "tench, Tinca tinca", 207: "golden retriever"}
NAMES = ["golden_retriever", "mug", "tench"]
SMALL = {"network": "convnet-d2-w8"}
"""Classifiers whose accuracy does not matter here."""


def request_of(dataset: Path, base: Path, **parts: Any) -> dict[str, Any]:
    """A smoke run with the cheapest classifiers."""
    values: dict[str, Any] = {
        "preset": "smoke", "images_per_class": 2, "num_threads": 1,
        "data": {"dataset": str(dataset)}, "base": {"reference": str(base)},
        "proxy": SMALL, "evaluate": {"student": SMALL | {"num_steps": 5}},
    }  # fmt: skip
    return values | parts


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "tiny-dit", image_size=16, id2label=LABELS)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "d.safetensors", NAMES, size=16, channels=3, count=20)


def test_mapping_is_shown_before_the_run(base: Path, dataset: Path, tmp_path: Path) -> None:
    plan = plan_of(request_of(dataset, base), tmp_path)
    classes = next(d for d in plan.decisions if d.what == "classes")
    assert classes.choice == "2 of 3 classes known to the base, 1 takes unused rows"
    assert "tench is row 0" in classes.reason and "golden_retriever is row 207" in classes.reason
    assert "mug takes row 1" in classes.reason
    assert plan.config.image_size == 16  # the base's own
    # where the files of a user lie is nobody's business: decisions are part of the report
    assert all(str(tmp_path) not in f"{d.choice} {d.reason}" for d in plan.decisions)


def test_random_images_through_a_latent_base(base: Path, dataset: Path, tmp_path: Path) -> None:
    result = run(request_of(dataset, base), tmp_path)  # smoke: a fidelity floor of 0
    mapping = facts(result, "base")["mapping"]
    assert mapping["rows"] == [207, 1, 0]
    assert mapping["origins"] == ["known", "own", "known"]
    assert facts(result, "generate")["is_faithful"] and not facts(result, "score")["fallback"]

    bundle = distillery.load(result.bundle / "distilled.safetensors")
    assert bundle.metadata["start"] == "generated" and bundle.images.shape == (6, 3, 16, 16)
    text = (result.bundle / "report.json").read_text()
    assert str(tmp_path) not in text

    [folder] = export_finetuned(tmp_path / "job", tmp_path / "out", cache=tmp_path / "cache")
    _check_export(folder, base)
    with pytest.raises(ModelError, match="exists already"):
        export_finetuned(tmp_path / "job", folder, cache=tmp_path / "cache")


def _check_export(folder: Path, base: Path) -> None:
    """The stock pipeline samples the export; rows in use were trained, others are the base's."""
    before, after = DiTPipeline.from_pretrained(base), DiTPipeline.from_pretrained(folder)
    assert after.get_label_ids(["mug", "tench", "golden_retriever"]) == [1, 0, 207]
    after.set_progress_bar_config(disable=True)
    images = after([0, 1], guidance_scale=4.0, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all()
    for old, new in zip(*map(label_tables, (before.transformer, after.transformer)), strict=True):
        moved = (old.weight != new.weight).any(dim=1)
        assert set(moved.nonzero().flatten().tolist()) == {0, 1, 207, 1000}


def test_export_needs_a_job_that_was_finetuned(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="holds no job"):
        export_finetuned(tmp_path, tmp_path / "out", cache=tmp_path)


def test_what_does_not_fit_the_base_is_refused_before_anything_runs(
    base: Path, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="makes images of 16 px, but 32 px were asked for"):
        plan_of(request_of(dataset, base, image_size=32), tmp_path)
    config = base / "transformer" / "config.json"
    write_json(config, read_json(config) | {"num_embeds_ada_norm": 2})
    with pytest.raises(ModelError, match="rows for 2 classes, got 3.*choose fewer classes"):
        plan_of(request_of(dataset, base), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_changed_weights_are_noticed(base: Path, dataset: Path, tmp_path: Path) -> None:
    run(request_of(dataset, base, finetune={"enabled": False}), tmp_path)
    weights = next((base / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(JobError, match="its images or base have changed since"):
        export_finetuned(tmp_path / "job", tmp_path / "out", cache=tmp_path / "cache")


def test_real_photographs_fall_back_to_real_images(shared_data: Path, tmp_path: Path) -> None:
    """20 images of each Imagenette class: samples of a random DiT are not faithful to them."""
    folder, count = tmp_path / "photos", Counter[str]()
    with zipfile.ZipFile(shared_data / "imagenette2-128-600.zip") as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if parts[0] == "train" and not name.endswith("/") and count[parts[1]] < 20:
                count[parts[1]] += 1
                (folder / parts[1]).mkdir(parents=True, exist_ok=True)
                (folder / parts[1] / parts[-1]).write_bytes(archive.read(name))
    assert len(count) == 10
    labels = {row: f"label {row}" for row in range(1000)} | LABELS
    base = write_pipeline(tmp_path / "tiny-dit", image_size=32, id2label=labels)
    result = run(request_of(folder, base, generate={"fidelity_floor": 0.5}), tmp_path)

    wnids = imagenet_wnids()
    assert facts(result, "base")["rows"] == [wnids.index(name) for name in sorted(count)]
    assert set(facts(result, "base")["origins"]) == {"known"}
    assert facts(result, "score")["fallback"]
    bundle = distillery.load(result.bundle / "distilled.safetensors")
    assert bundle.metadata["start"] == "real" and bundle.images.shape == (20, 3, 32, 32)
    report = read_json(result.bundle / "report.json")
    kept = facts(result, "refine")["kept"]  # on so little work the first attempt may not help
    outcome = "chosen and refined instead" if kept else "as they were: no refinement was better"
    assert outcome in report["fallback"]["reason"]
