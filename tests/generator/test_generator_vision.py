"""Vision models by name: features of the selection, teachers of soft labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_helpers import facts, plan_of, run, write_dataset, write_pipeline
from transformers import ViTConfig, ViTForImageClassification

import distillery
from distillery.errors import ModelError
from distillery.files import read_json, write_json
from distillery.models.features import VisionModelFeatures
from distillery.models.initialise import seeded_weights
from generator.config import DistillConfig, LabelConfig
from generator.stages import label, score
from generator.vision import model_files, teacher_columns
from robust.config import SelectConfig

NAMES = ["cat", "dog", "emu"]
LABELS = {0: "emu", 1: "stoat", 2: "dog", 3: "cat"}


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A random image classifier that knows the classes, in another order, and one more."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=4, id2label=LABELS,
    )  # fmt: skip
    with seeded_weights(0):
        ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    processor = {
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5] * 3,
        "image_std": [0.2] * 3,
    }
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "vit"


@pytest.fixture
def request_of(tmp_path: Path) -> dict:
    """The quickest job there is: a random base without fine-tuning, one student."""
    write_dataset(tmp_path / "d.safetensors", NAMES, size=16, channels=3, count=20)
    write_pipeline(tmp_path / "tiny-dit", image_size=16, id2label={})
    return {
        "preset": "smoke", "images_per_class": 2, "num_threads": 1,
        "data": {"dataset": str(tmp_path / "d.safetensors")},
        "base": {"reference": str(tmp_path / "tiny-dit")}, "finetune": {"enabled": False},
        "refine": {"enabled": False}, "proxy": {"network": "convnet-d2-w8"},
        "evaluate": {
            "controls": False, "student": {"network": "convnet-d2-w8", "num_steps": 2}
        },
    }  # fmt: skip


def test_a_model_whose_files_were_replaced_is_another_one(vit: Path) -> None:
    before = model_files(str(vit))
    assert model_files("proxy") == model_files("own") == model_files("facebook/dinov2-small") == {}
    write_json(vit / "config.json", read_json(vit / "config.json") | {"layer_norm_eps": 1e-3})
    assert model_files(str(vit)) != before != {}
    config = DistillConfig(select=SelectConfig(features=str(vit)))
    assert score.settings(config)["model_files"] == model_files(str(vit))["model_files"]
    assert "model_files" not in score.settings(DistillConfig())
    config = DistillConfig(label=LabelConfig(teacher=str(vit)))
    assert label.settings(config)["model_files"] == model_files(str(vit))["model_files"]


def test_a_named_model_selects_and_teaches(request_of: dict, vit: Path, tmp_path: Path) -> None:
    request = request_of | {"select": {"features": str(vit)}, "label": {"teacher": str(vit)}}
    result = run(request, tmp_path)
    bundle = distillery.load(result.bundle / "distilled.safetensors")
    expected = VisionModelFeatures(vit).logits(torch.from_numpy(bundle.images))[:, [3, 2, 0]]
    assert bundle.teacher_logits is not None
    np.testing.assert_allclose(bundle.teacher_logits, expected, atol=2e-3)
    summary = next(s.record["summary"] for s in result.stages if s.name == "score")
    assert summary.endswith("2 a class by greedy_cvar on vit")
    assert not facts(result, "score")["fallback"]
    config = read_json(result.bundle / "manifest.json")["config"]
    assert (config["select"]["features"], config["label"]["teacher"]) == ("vit", "vit")


def test_features_change_the_choice(request_of: dict, vit: Path, tmp_path: Path) -> None:
    """The proxy's features and the model's see different images as alike."""
    request = request_of | {"label": {"enabled": False}}
    ours = run(request, tmp_path / "a")
    theirs = run(request | {"select": {"features": str(vit)}}, tmp_path / "b")
    assert ours.content_digest != theirs.content_digest


def test_what_would_fail_late_is_refused_by_the_plan(
    request_of: dict, vit: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no vision model 'nowhere'"):
        plan_of(request_of | {"select": {"features": "nowhere"}}, tmp_path)
    write_json(vit / "config.json", read_json(vit / "config.json") | {"id2label": {"0": "emu"}})
    with pytest.raises(ModelError, match="knows 1 classes, the dataset has 3"):
        plan_of(request_of | {"label": {"teacher": str(vit)}}, tmp_path)
    with pytest.raises(ModelError, match="does not know 'cat'; use label.teacher=own"):
        teacher_columns("vit", {0: "emu", 1: "dog", 2: "stoat"}, NAMES)


def test_logits_go_to_the_class_of_their_name() -> None:
    assert teacher_columns("vit", LABELS, NAMES) == [3, 2, 0]
