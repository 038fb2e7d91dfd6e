"""How fast this machine does the units of work that a job is made of.

A unit is one image through one network. For small networks a few steps of the very networks are
timed; for large ones floating-point operations are divided by a measured rate of matrix products.
`nominal_speeds` measures nothing: a fixed machine, for decisions that must not depend on the load.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from distillery.errors import Cancelled
from distillery.models.config import (
    CLASSIFIER_WIDTHS,
    PixelDiTConfig,
    dit_flops_per_image,
    parse_classifier_name,
)

NOMINAL_DIT_FLOPS, NOMINAL_CLASSIFIER_FLOPS = 50e9, 65e9
"""A second, on one core of the server that the defaults were tuned on."""
FLOPS_PER_PIXEL = {
    "alexnet": (4.8e5, 4.8e5), "vgg11": (3e5, 3e5), "resnet10": (5e5, 3.5e4),
    "resnet18": (1.1e6, 7.2e4), "resnetap10": (8.6e5, 7.3e4),
}  # fmt: skip
"""Operations of a forward pass per pixel, up to 64 px and at 224 (counted by torch)."""
NOMINAL_STEP_S = 1e-3
"""What a step costs beside its arithmetic: augmentation, optimiser, Python."""
CALIBRATION_S = 0.3
"""Time for each of the networks that are timed."""
CALIBRATION_FLOPS = 8e9
"""Batches are cut so that a timed step stays below this."""
MATMUL_SIZE = 1024


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step over a batch: a fixed part and one for each image."""

    fixed_s: float
    image_s: float

    def of(self, batch_size: int) -> float:
        """Return the seconds of one step."""
        return self.fixed_s + self.image_s * batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Costs of the units of work."""

    dit_train: StepCost
    """Forward and backward of the diffusion transformer, with the optimiser."""
    dit_forward: StepCost
    """One evaluation of it."""
    classifier: StepCost
    """A training step of the classifier, with augmentation."""
    encode_s: float = 0.0
    """One image through the encoder of a latent base."""
    decode_s: float = 0.0
    """One image through its decoder."""
    basis: str
    """Where the figures of the transformer come from."""
    classifier_basis: str
    """Where those of the classifier come from."""
    spread: float
    """The truth lies between the figure over this and the figure times this."""


def classifier_flops(name: str, image_size: int, channels: int) -> float:
    """Return the floating-point operations of one forward pass of a classifier, per image.

    Convolutions of a ConvNet by formula; for the others counts at their published width, scaled
    (`FLOPS_PER_PIXEL`; a transformer has the same number of tokens at most sizes).
    """
    parsed = parse_classifier_name(name)
    if parsed.family == "convnet":
        size, channels_in, total = image_size, channels, 0.0
        for _ in range(parsed.depth):
            total += 2 * 9 * channels_in * parsed.width * size * size
            size, channels_in = max(1, size // 2), parsed.width
        return total
    width = (parsed.width / CLASSIFIER_WIDTHS[parsed.family]) ** 2
    if parsed.family == "vit":
        return 2.5e8 * width
    small, large = FLOPS_PER_PIXEL[parsed.family]
    return (small if image_size <= 64 else large) * image_size**2 * width


def vae_flops(config: Mapping[str, Any], image_size: int) -> tuple[float, float]:
    """Return the floating-point operations of encoding and of decoding one image.

    Args:
        config: Of diffusers' `AutoencoderKL`.
        image_size: Height and width of the image.
    """
    widths, layers = list(config["block_out_channels"]), config.get("layers_per_block", 1)
    latent = config.get("latent_channels", 4)
    low = image_size // 2 ** (len(widths) - 1)
    top = widths[-1]
    middle = low * low * (4 * 18 * top * top + 8 * top * top + 4 * low * low * top)
    encode = 18.0 * 3 * widths[0] * image_size**2 + middle + 18.0 * low * low * top * 2 * latent
    decode = 18.0 * latent * top * low * low + middle + 18.0 * widths[0] * 3 * image_size**2
    before_down, before_up = widths[0], top
    for level, width in enumerate(widths):
        size = image_size // 2**level
        encode += size * size * _resnets(before_down, width, layers)
        encode += 18.0 * width * width * (size // 2) ** 2 * (level < len(widths) - 1)
        before_down = width
    for level, width in enumerate(reversed(widths)):
        size = low * 2**level
        decode += size * size * _resnets(before_up, width, layers + 1)
        decode += 18.0 * width * width * (2 * size) ** 2 * (level < len(widths) - 1)
        before_up = width
    return encode, decode


def _resnets(width_in: int, width: int, count: int) -> float:
    """Return operations per pixel of `count` residual blocks of two convolutions."""
    first = 18.0 * width_in * width + 18.0 * width * width
    first += 2.0 * width_in * width * (width_in != width)
    return first + (count - 1) * 36.0 * width * width


def analytic_speeds(
    dit: Mapping[str, Any], vae: Mapping[str, Any] | None, image_size: int, *,
    flops_per_s: float, classifier: StepCost, basis: str,
) -> Speeds:  # fmt: skip
    """Return the speeds of arithmetic alone, at a rate of floating-point operations."""
    forward = dit_flops_per_image(dit) / flops_per_s
    encode, decode = vae_flops(vae, image_size) if vae else (0.0, 0.0)
    return Speeds(
        dit_train=StepCost(3 * NOMINAL_STEP_S, 3 * forward),
        dit_forward=StepCost(NOMINAL_STEP_S, forward),
        classifier=classifier,
        encode_s=encode / flops_per_s,
        decode_s=decode / flops_per_s,
        basis=basis,
        classifier_basis=basis,
        spread=2.0,
    )


def nominal_speeds(
    dit: Mapping[str, Any], vae: Mapping[str, Any] | None, classifier: str, image_size: int,
    channels: int,
) -> Speeds:  # fmt: skip
    """Return the speeds of a fixed machine, the same wherever and whenever this is called."""
    student = 3 * classifier_flops(classifier, image_size, channels) / NOMINAL_CLASSIFIER_FLOPS
    return analytic_speeds(
        dit, vae, image_size, flops_per_s=NOMINAL_DIT_FLOPS, basis="a nominal machine",
        classifier=StepCost(NOMINAL_STEP_S, student),
    )  # fmt: skip


def _median_s(step: Callable[[], object], budget_s: float) -> float:
    """Return the seconds of the median step within a budget; the first warms up."""
    step()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - started < budget_s and len(times) < 10):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def _wait_for(device: str) -> None:
    """Wait until the device has done what it was given: a GPU works on while Python returns."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def measure_matmul_flops(device: str = "cpu") -> float:
    """Return the floating-point operations a second of a large float32 matrix product."""
    import torch

    matrix = torch.ones(MATMUL_SIZE, MATMUL_SIZE, device=device)

    def product() -> None:
        torch.mm(matrix, matrix)
        _wait_for(device)

    return 2 * MATMUL_SIZE**3 / _median_s(product, CALIBRATION_S / 2)


def measure_dit(
    config: PixelDiTConfig, batch_size: int, device: str = "cpu"
) -> tuple[StepCost, StepCost]:
    """Time training steps and forward passes of a pixel DiT on a device: (train, forward).

    At most `batch_size` images a step, fewer where they are slow: on a CPU.
    """
    import torch

    from distillery.models.dit import build_pixel_dit, denoise

    transformer = build_pixel_dit(config, 0).to(device)
    if device == "cpu":
        batch_size = min(batch_size, int(CALIBRATION_FLOPS / 3 / config.flops_per_image()))
    batch_size = max(2, batch_size)
    shape = (batch_size, config.channels, config.image_size, config.image_size)
    images = torch.zeros(shape, device=device)
    timesteps = torch.zeros(batch_size, dtype=torch.int64, device=device)
    optimizer = torch.optim.AdamW(transformer.parameters(), fused=True)

    def train() -> None:
        denoise(transformer, images, timesteps, timesteps).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait_for(device)

    @torch.inference_mode()
    def forward() -> None:
        denoise(transformer, images, timesteps, timesteps)
        _wait_for(device)

    train_s = _median_s(train, CALIBRATION_S)
    forward_s = _median_s(forward, CALIBRATION_S / 2)
    # at these sizes a step is arithmetic; a tenth of it does not depend on the batch
    return (
        StepCost(0.1 * train_s, 0.9 * train_s / batch_size),
        StepCost(0.1 * forward_s, 0.9 * forward_s / batch_size),
    )


def measure_classifier(
    name: str, image_size: int, channels: int, num_classes: int, augmentation: str,
    device: str = "cpu",
) -> StepCost:  # fmt: skip
    """Time training steps of a classifier on a device, at two batch sizes."""
    import torch

    from distillery.evaluation.config import StudentConfig
    from distillery.evaluation.training import cross_entropy_objective, train_classifier
    from distillery.models.classifiers import build_classifier

    network = build_classifier(name, channels, image_size, num_classes, 0).to(device)

    def seconds(batch_size: int) -> float:
        images = torch.zeros(batch_size, channels, image_size, image_size, device=device)
        labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
        objective = cross_entropy_objective(labels)
        recipe = StudentConfig(network=name, batch_size=batch_size, augmentation=augmentation)
        clock = _StepClock(CALIBRATION_S / 2, device)
        with contextlib.suppress(Cancelled):
            train_classifier(network, images, objective, recipe, seed=0, on_step=clock.tick)
        return clock.median_s()

    small, large = seconds(16), seconds(64)
    image_s = max((large - small) / 48, large / 64 / 10)
    return StepCost(max(large - 64 * image_s, 0.0), image_s)


class _StepClock:
    """Takes the times of a loop's steps; ends the loop when its budget is spent."""

    def __init__(self, budget_s: float, device: str) -> None:
        self._device = device
        self._until = time.perf_counter() + budget_s
        self._ticks: list[float] = []

    def tick(self, step: int) -> None:
        """Note the end of a step; the first warmed up."""
        _wait_for(self._device)
        self._ticks.append(time.perf_counter())
        if len(self._ticks) >= 3 and self._ticks[-1] >= self._until:
            raise Cancelled

    def median_s(self) -> float:
        """Return the median time of a step."""
        steps = [after - before for before, after in pairwise(self._ticks)]
        return sorted(steps)[len(steps) // 2]
