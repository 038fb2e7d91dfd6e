"""Are five students trained together faster than one after another?

Three ways train five ConvNets of the published form (instance norm, average pooling) on the same
100 images with AdamW: one after another; all in one call of `torch.func.vmap`, which is how a job's
evaluation trains them on a GPU (`distillery/evaluation/together.py`); as one network of grouped
convolutions. Each student has its own weights and its own batches. A first check holds all three to
the same losses. Times are seconds of the thread on a CPU, of the clock on a GPU; the ways take
turns, and the median of the rounds counts.

    python -m benchmarks.batched_students [--device cuda] [--rounds 5]

Writes benchmarks/results/batched_students.json, the devices side by side. Two minutes.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.jobs import RESULTS, environment
from distillery.evaluation.together import Together, losses_of
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers
from distillery.models.classifiers import ConvNet, build_classifier

RESULT = "batched_students.json"
STUDENTS, IMAGES, BATCH, CLASSES = 5, 100, 100, 10
PUBLISHED = "CIFAR-10, published: 32 px, depth 3, width 128"
"""On a GPU only: a step of five takes seconds on a CPU core."""
SHAPES = {
    "digits: 8 px, depth 2, width 32": (8, 1, 2, 32),
    "CIFAR-10: 32 px, depth 3, width 64": (32, 3, 3, 64),
    PUBLISHED: (32, 3, 3, 128),
}
Step = Callable[[Tensor, Tensor], Tensor]
"""Images (S, B, C, H, W) and labels (S, B) of every student -> losses (S,), weights updated."""


def one_after_another(networks: list[ConvNet]) -> Step:
    """Return the plain way: a step of each student in turn."""
    optimizers = [torch.optim.AdamW(n.parameters(), 1e-3, fused=True) for n in networks]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        losses = []
        for network, optimizer, own, truth in zip(
            networks, optimizers, images, labels, strict=True
        ):
            loss = F.cross_entropy(network(own), truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return step


def by_vmap(networks: list[ConvNet]) -> Step:
    """Return all students as one function of stacked weights, as the harness has it on a GPU."""
    students = Together(networks)
    optimizer = torch.optim.AdamW(students.weights.values(), 1e-3, fused=True)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        losses = losses_of(students(images), labels)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return step


class Grouped(nn.Module):
    """Several ConvNets as one: each convolution has a group for each of them."""

    def __init__(self, networks: list[ConvNet]) -> None:
        super().__init__()
        self.count = len(networks)
        convolutions = [[m for m in n.blocks if isinstance(m, nn.Conv2d)] for n in networks]
        norms = [[m for m in n.blocks if isinstance(m, nn.GroupNorm)] for n in networks]
        self.convolutions = nn.ModuleList(
            map(self._joined_convolution, zip(*convolutions, strict=True))
        )
        self.norms = nn.ModuleList(map(self._joined_norm, zip(*norms, strict=True)))
        self.head_weight = nn.Parameter(torch.stack([n.head.weight.detach() for n in networks]))
        self.head_bias = nn.Parameter(torch.stack([n.head.bias.detach() for n in networks]))

    def _joined_convolution(self, parts: tuple[nn.Conv2d, ...]) -> nn.Conv2d:
        first = parts[0]
        joined = nn.Conv2d(
            self.count * first.in_channels, self.count * first.out_channels, 3, padding=1,
            groups=self.count,
        )  # fmt: skip
        return self._filled(joined, parts)

    def _joined_norm(self, parts: tuple[nn.GroupNorm, ...]) -> nn.GroupNorm:
        channels = self.count * parts[0].num_channels
        return self._filled(nn.GroupNorm(channels, channels), parts)

    @staticmethod
    def _filled(joined: Any, parts: tuple[Any, ...]) -> Any:
        with torch.no_grad():
            joined.weight.copy_(torch.cat([part.weight for part in parts]))
            joined.bias.copy_(torch.cat([part.bias for part in parts]))
        return joined.to(parts[0].weight.device)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (S, B, K) of images (S, B, C, H, W)."""
        students, batch = images.shape[:2]
        x = images.transpose(0, 1).flatten(1, 2)  # (B, S C, H, W)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.avg_pool2d(F.relu(norm(convolution(x))), 2)
        features = x.reshape(batch, students, -1).transpose(0, 1)  # (S, B, D)
        return torch.baddbmm(self.head_bias[:, None], features, self.head_weight.transpose(1, 2))


def by_groups(networks: list[ConvNet]) -> Step:
    """Return all students as one network of grouped convolutions."""
    network = Grouped(networks)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        losses = losses_of(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return step


WAYS = {"one after another": one_after_another, "vmap": by_vmap, "grouped": by_groups}


def students(shape: tuple[int, int, int, int], device: torch.device) -> list[ConvNet]:
    """Return fresh students, equal at every call."""
    size, channels, depth, width = shape
    built = [
        build_classifier(f"convnet-d{depth}-w{width}", channels, size, CLASSES, seed)
        for seed in range(STUDENTS)
    ]
    return [network.to(device) for network in built if isinstance(network, ConvNet)]


def batches(
    shape: tuple[int, int, int, int], device: torch.device, count: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of `count` steps, own ones for each student."""
    size, channels = shape[:2]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, channels, size, size, generator=generator).to(device)
    labels = (torch.arange(IMAGES) % CLASSES).to(device)
    picks = torch.stack([
        torch.stack([torch.randperm(IMAGES, generator=generator)[:BATCH] for _ in range(STUDENTS)])
        for _ in range(count)
    ]).to(device)  # fmt: skip
    return [(images[own], labels[own]) for own in picks]


def agree(shape: tuple[int, int, int, int], device: torch.device) -> float:
    """Return the largest difference of losses between the ways over three steps."""
    drawn = batches(shape, device, 3)
    losses = []
    for way in WAYS.values():
        step = way(students(shape, device))
        losses.append(torch.stack([step(*batch) for batch in drawn]))
    return max(float((other - losses[0]).abs().max()) for other in losses[1:])


def seconds_of(step: Step, drawn: list[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Return the seconds of a step, of the clock on a GPU and of the thread on a CPU."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    if on_gpu:
        torch.cuda.synchronize()
    started = clock()
    for batch in drawn:
        step(*batch)
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - started) / len(drawn)


def measure(name: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return the seconds of a step of all students, for each way."""
    shape = SHAPES[name]
    drawn = batches(shape, device, 20 if device.type == "cuda" or shape[0] < 16 else 3)
    steps = {way: make(students(shape, device)) for way, make in WAYS.items()}
    for step in steps.values():
        seconds_of(step, drawn[:2], device)  # warm up
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, step in steps.items():
            times[way].append(seconds_of(step, drawn, device))
    seconds = {way: float(np.median(values)) for way, values in times.items()}
    plain = seconds["one after another"]
    row: dict[str, Any] = {"name": name, "largest_loss_difference": agree(shape, device)}
    for way in WAYS:
        row[way] = {"seconds": seconds[way], "speed": plain / seconds[way], "rounds": times[way]}
    cells = "".join(f"{1000 * seconds[w]:9.1f} ms ({plain / seconds[w]:.2f} x)" for w in WAYS)
    print(f"{name:48s}{cells}  difference {row['largest_loss_difference']:.1e}", flush=True)
    return row


def main() -> None:
    """Measure all shapes on a device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_buffers()
    device = torch.device(arguments.device)
    names = [name for name in SHAPES if device.type == "cuda" or name != PUBLISHED]
    rows = [measure(name, device, arguments.rounds) for name in names]
    path = RESULTS / RESULT
    result = read_json(path) if path.exists() else {"devices": {}, "environments": {}}
    result["devices"][device.type] = rows
    result["environments"][device.type] = environment()
    write_json(path, result | {"question": __doc__.splitlines()[0]})


if __name__ == "__main__":
    main()
