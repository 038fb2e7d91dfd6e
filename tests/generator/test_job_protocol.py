"""A published protocol inside a job: fitted, priced, and refused where the job cannot follow it."""

from dataclasses import replace

import numpy as np
import pytest

from distillery.errors import ConfigError
from distillery.evaluation.config import EvaluateConfig
from distillery.evaluation.harness import ImageSet
from generator.config import DistillConfig, LabelConfig, from_dict
from generator.job_protocol import job_setting, student_steps
from generator.judging import resized_set
from generator.report import stage_effects


def config(ipc: int = 10, size: int = 32, **evaluate: object) -> DistillConfig:
    return DistillConfig(
        images_per_class=ipc, image_size=size, channels=3, horizontal_flip=True,
        evaluate=EvaluateConfig(**evaluate),  # type: ignore[arg-type]
    )  # fmt: skip


def test_without_a_protocol_the_job_has_its_own_student() -> None:
    assert job_setting(config(), 10) is None


def test_a_protocol_is_fitted_with_the_jobs_students() -> None:
    setting = job_setting(config(protocol="dc-small"), 10)
    assert setting is not None and student_steps(setting) == ("convnet-d3-w128", 1000, 100)
    assert setting.deviations == ("3 students a network in place of 20",)
    scaled = config(protocol="hard-idc", protocol_epochs=4, protocol_network="resnet10-w8")
    setting = job_setting(scaled, 10)
    assert setting is not None and student_steps(setting) == ("resnet10-w8", 8, 64)


def test_a_soft_protocol_needs_the_jobs_teacher() -> None:
    soft = config(protocol="soft-rded")
    setting = job_setting(soft, 10)
    assert setting is not None and any("teacher" in text for text in setting.deviations)
    for label in (LabelConfig(enabled=False), LabelConfig(teacher="org/model")):
        with pytest.raises(ConfigError, match="asks the job's own teacher"):
            job_setting(replace(soft, label=label), 10)
    with pytest.raises(ConfigError, match="1, 10 and 50 images per class, this set has 7"):
        job_setting(config(ipc=7, protocol="soft-rded"), 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "best"}, "protocol must be one of"),
        ({"protocol": "retrieval"}, "distillery evaluate FOLDER --protocol retrieval"),
        ({"protocol": "cross-arch"}, "no protocol for the inside of a job"),
        ({"protocol": "dc-small", "protocol_network": "lenet"}, "network must be one of"),
        ({"protocol": "dc-small", "protocol_epochs": 0}, "epochs must be 1 or more"),
        ({"protocol_epochs": 3}, "need a protocol beside them"),
    ],
)
def test_what_no_job_can_follow_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict({"evaluate": values})


def test_large_images_are_brought_to_the_protocols_size() -> None:
    images = np.full((2, 3, 256, 256), 7, np.uint8)
    logits = np.zeros((2, 2))
    small = resized_set(ImageSet(images, np.arange(2), logits), 224)
    assert small.images.shape == (2, 3, 224, 224) and (small.images == 7).all()
    assert small.teacher_logits is logits


def test_gains_are_drawn_from_soft_rows_where_there_are_no_others() -> None:
    def row(name: str, mean: float) -> dict:
        return {
            "name": name,
            "label": name,
            "accuracy": {"mean": mean, "std": 0.0, "runs": [mean, mean]},
        }

    soft = [row("ours", 0.5), row("random_real", 0.4)]
    (effect,) = stage_effects({"hard": [], "soft": soft})
    assert effect["gain"] == pytest.approx(0.1) and "random real" in effect["stage"]
