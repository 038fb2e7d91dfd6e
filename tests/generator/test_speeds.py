"""Prices of work: operations against a counter's figures, and measurements that are quick."""

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distillery.models import fused
from distillery.models.classifiers import build_classifier
from distillery.models.config import PixelDiTConfig
from generator.speeds import (
    StepCost,
    _StepClock,
    classifier_flops,
    measure_classifier,
    measure_dit,
    measure_matmul_flops,
    vae_flops,
)


def test_a_step_costs_a_fixed_part_and_one_for_each_image() -> None:
    assert StepCost(0.5, 0.25).of(8) == 2.5


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnet-d2-w32", 8),
        ("convnet-d3-w16", 28),
        ("resnet18-w16", 32),
        ("resnet10-w32", 128),
        ("resnetap10-w32", 32),
        ("alexnet-w32", 64),
        ("vgg11-w32", 32),
        ("vit-w96", 32),
    ],
)
def test_operations_of_classifiers(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # the fused block pools by a product, which the counter would count
    monkeypatch.setattr(fused, "_fits", lambda *_: False)
    network = build_classifier(name, 3, size, 10, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    tolerance = (
        0.35 if not name.startswith("convnet") else 0.05
    )  # counts at the published width, scaled
    assert classifier_flops(name, size, 3) == pytest.approx(
        counter.get_total_flops(), rel=tolerance
    )


@pytest.mark.parametrize("widths", [(32, 64), (32, 32, 64, 64)])
def test_operations_of_an_autoencoder(widths: tuple[int, ...]) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=2, latent_channels=4, norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
    )  # fmt: skip
    image = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        with FlopCounterMode(display=False) as encoder:
            latent = vae.encode(image).latent_dist.mean
        with FlopCounterMode(display=False) as decoder:
            vae.decode(latent)
    encode, decode = vae_flops(vae.config, 32)
    tokens = latent.shape[-1] ** 2
    attention = 4 * tokens**2 * widths[-1]  # fused on the CPU, where the counter does not see it
    assert encode == pytest.approx(encoder.get_total_flops() + attention, rel=0.01)
    assert decode == pytest.approx(decoder.get_total_flops() + attention, rel=0.01)


def test_measurements_are_quick_and_positive() -> None:
    started = time.monotonic()
    train, forward = measure_dit(PixelDiTConfig.for_images(8, 1, 10), 8)
    step = measure_classifier("convnet-d2-w32", 8, 1, 10, "affine")
    rate = measure_matmul_flops()
    assert time.monotonic() - started < 15  # about one second on a machine that is idle
    assert train.of(8) > forward.of(8) > 0 and step.of(64) > 0 and rate > 1e8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_timed_to_the_end_of_its_work() -> None:
    config = PixelDiTConfig.for_images(32, 3, 10)
    few, _ = measure_dit(config, 64, "cuda")
    many, forward = measure_dit(config, 2048, "cuda")
    # without waiting only the launches are timed, which are the same for any batch
    assert many.of(2048) > 4 * few.of(64) and many.of(2048) > forward.of(2048) > 0
    assert measure_classifier("convnet-d3-w64", 32, 3, 10, "dsa", "cuda").of(64) > 0


def test_the_clock_is_read_when_the_gpu_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("waited"))
    clock = _StepClock(10.0, "cuda")
    clock.tick(1)
    assert waits == ["waited"]
    _StepClock(10.0, "cpu").tick(1)
    assert waits == ["waited"]
