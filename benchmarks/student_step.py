"""What the fused norm, ReLU and pooling of a ConvNet gain in a training step on a CPU.

    python -m benchmarks.student_step [--rounds 15]

The same network takes the same steps through the single layers and through ours: norm, ReLU and
average pooling at once, or in the digits' student max pooling before ReLU with channels last. Short
rounds alternate and medians of CPU seconds of one thread are compared, so that other work on the
machine falls on both. Writes benchmarks/results/student_step.json.
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.jobs import save
from distillery.machine import keep_large_buffers
from distillery.models import fused
from distillery.models.classifiers import build_classifier
from distillery.models.pooling import ReluMaxPool

CASES = {
    "CIFAR-10": ("convnet-d3-w64", 3, 32, 100, 4),
    "MNIST": ("convnet-d3-w64", 1, 28, 100, 4),
    "digits": ("convnet-d2-w32-group-max", 1, 8, 128, 20),
}
"""Network, channels, side, batch, and steps of a round."""


def step_seconds(
    network: str, channels: int, side: int, batch: int, steps: int, *, in_order: bool = False
) -> float:
    """Return the CPU seconds of one forward, backward and optimiser step.

    Args:
        network: Name of the classifier.
        channels: Of an image.
        side: Of an image.
        batch: Images a step.
        steps: To take the mean of.
        in_order: Ordinary memory order, whatever the network prefers.
    """
    built: Any = build_classifier(network, channels, side, num_classes=10, seed=0)
    if in_order:
        built.to(memory_format=torch.contiguous_format)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, side, side, generator=generator)
    labels = torch.arange(batch) % 10
    optimizer = torch.optim.AdamW(built.parameters(), 1e-3, fused=True)
    began = 0.0
    for step in range(steps + 2):
        if step == 2:  # two warm up
            began = time.thread_time()
        loss = F.cross_entropy(built(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return (time.thread_time() - began) / steps


def by_layers() -> ExitStack:
    """Let every operation go through its layers, one after another."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(fused, "_fits", lambda *_: False))
    layers = lambda _, x: F.max_pool2d(F.relu(x), 2)  # noqa: E731
    stack.enter_context(mock.patch.object(ReluMaxPool, "forward", layers))
    return stack


def main() -> None:
    """Measure every case and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_large_buffers()
    torch.set_num_threads(1)
    results = {}
    for name, case in CASES.items():
        times: dict[str, list[float]] = {"layers": [], "fused": []}
        for _ in range(options.rounds):
            with by_layers():
                times["layers"].append(step_seconds(*case, in_order=True))
            times["fused"].append(step_seconds(*case))
        median = {way: statistics.median(values) for way, values in times.items()}
        ratio = median["layers"] / median["fused"]
        results[name] = {"case": case, "seconds": times, "median": median, "faster": ratio}
        print(f"{name}: {median}, {ratio:.2f} x", flush=True)
    save("student_step.json", {"question": __doc__.splitlines()[0], "results": results})


if __name__ == "__main__":
    main()
