"""Where a job computes and in what precision; what needs a GPU is marked so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_helpers import MACHINE, run, write_dataset, write_pipeline

from distillery.errors import ConfigError
from distillery.models.base import load_base
from generator.pipeline import STAGES
from generator.plan import make_plan
from generator.sampler import match_channels, sample_images
from generator.stages.generate import fidelity_floor

GPU = replace(MACHINE, gpu="a GPU", gpu_memory_bytes=2**36)


@pytest.fixture
def request_of(tmp_path: Path) -> dict[str, Any]:
    dataset = write_dataset(tmp_path / "d.safetensors", ["a", "b"], size=16, channels=3, count=20)
    base = write_pipeline(tmp_path / "tiny-dit", image_size=16, id2label={})
    return {
        "preset": "smoke", "images_per_class": 1, "num_threads": 1,
        "data": {"dataset": str(dataset)}, "base": {"reference": str(base)},
        "evaluate": {"controls": False, "student": {"network": "convnet-d2-w8"}},
    }  # fmt: skip


def test_the_gpu_is_taken_where_there_is_one(request_of: dict, tmp_path: Path) -> None:
    on_cpu = make_plan(request_of, cache=tmp_path, machine=MACHINE).config
    on_gpu = make_plan(request_of, cache=tmp_path, machine=GPU).config
    assert (on_cpu.device, on_cpu.finetune.precision, on_cpu.generate.precision) == (
        "cpu", "no", "no",
    )  # fmt: skip
    assert (on_gpu.device, on_gpu.finetune.precision, on_gpu.generate.precision) == (
        "cuda", "bf16", "bf16",
    )  # fmt: skip
    asked = make_plan(request_of | {"device": "cpu"}, cache=tmp_path, machine=GPU).config
    assert (asked.device, asked.generate.precision) == ("cpu", "no")


def test_small_pixel_bases_stay_in_full_precision(request_of: dict, tmp_path: Path) -> None:
    request = request_of | {"base": {"reference": "pixel"}}
    config = make_plan(request, cache=tmp_path, machine=GPU).config
    assert (config.device, config.finetune.precision) == ("cuda", "no")


def test_a_gpu_that_is_not_there_is_refused(request_of: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU here: use device cpu"):
        make_plan(request_of | {"device": "cuda"}, cache=tmp_path, machine=MACHINE)
    with pytest.raises(ConfigError, match="device must be cpu or cuda, got 'tpu'"):
        make_plan(request_of | {"device": "tpu"}, cache=tmp_path, machine=MACHINE)


def test_what_was_computed_on_one_device_is_not_taken_for_anothers(
    request_of: dict, tmp_path: Path
) -> None:
    config = make_plan(request_of, cache=tmp_path, machine=MACHINE).config
    other = replace(config, device="cuda")
    same = {stage.name for stage in STAGES if stage.settings(config) == stage.settings(other)}
    assert same == {"prepare"}


def test_half_precision_samples_nearly_the_same_images(request_of: dict) -> None:
    base = load_base(Path(request_of["base"]["reference"]))
    solver = {"num_steps": 4, "guidance_scale": 2.0}
    full = sample_images(base, [1, 2, 3], np.array([0, 1, 2]), **solver).int()
    half = sample_images(base, [1, 2, 3], np.array([0, 1, 2]), precision="bf16", **solver).int()
    assert half.shape == (3, 3, 16, 16)
    assert 0 < (full - half).abs().float().mean() < 3  # of 255; other seeds are far away
    other = sample_images(base, [4, 5, 6], np.array([0, 1, 2]), **solver).int()
    assert (full - other).abs().float().mean() > 10


def test_gray_data_get_the_mean_of_a_colour_bases_channels() -> None:
    images = torch.tensor([10, 20, 60], dtype=torch.uint8).view(1, 3, 1, 1)
    assert match_channels(images, 1).tolist() == [[[[30]]]]
    assert match_channels(images, 3) is images


@pytest.mark.parametrize(
    ("share", "judge_accuracy", "expected"),
    [
        (0.5, 0.9, 0.5),  # half way from chance, 0.1, to the judge's 0.9
        (1.0, 0.9, 0.9),
        (0.0, 0.9, 0.0),  # nothing is asked
        (0.5, 0.1, 0.125),  # a judge no better than chance: still more than chance
    ],
)
def test_fidelity_is_measured_between_chance_and_the_judge(
    share: float, judge_accuracy: float, expected: float
) -> None:
    assert fidelity_floor(share, judge_accuracy, 10) == pytest.approx(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_job_runs_on_a_gpu(request_of: dict, tmp_path: Path) -> None:
    result = run(request_of, tmp_path, machine=GPU)
    assert result.content_digest
