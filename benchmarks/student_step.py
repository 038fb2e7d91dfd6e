"""What the fused norm, ReLU and pooling of a ConvNet gain in a training step on a CPU.

    python -m benchmarks.student_step [--rounds 15]

The same network takes the same steps through the single layers and through the fused operation:
norm, ReLU and average pooling, or ReLU and max pooling in the digits' student. Short rounds
alternate and medians of CPU seconds of one thread are compared, so that other work on the machine
falls on both. Writes benchmarks/results/student_step.json.
"""

import argparse
import statistics
import time
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.jobs import save
from distillery.machine import keep_large_buffers
from distillery.models import fused, pooling
from distillery.models.classifiers import build_classifier

CASES = {
    "CIFAR-10": ("convnet-d3-w64", 3, 32, 100, 4),
    "MNIST": ("convnet-d3-w64", 1, 28, 100, 4),
    "digits": ("convnet-d2-w32-group-max", 1, 8, 128, 20),
}
"""Network, channels, side, batch, and steps of a round."""


def step_seconds(network: str, channels: int, side: int, batch: int, steps: int) -> float:
    """Return the CPU seconds of one forward, backward and optimiser step."""
    built = build_classifier(network, channels, side, num_classes=10, seed=0)
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


def unfused(module: ModuleType) -> AbstractContextManager[Any]:
    """Let a module's operation go through its layers, one after another."""
    return mock.patch.object(module, "_fits", lambda *_: False)


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
            with unfused(fused), unfused(pooling):
                times["layers"].append(step_seconds(*case))
            times["fused"].append(step_seconds(*case))
        median = {way: statistics.median(values) for way, values in times.items()}
        ratio = median["layers"] / median["fused"]
        results[name] = {"case": case, "seconds": times, "median": median, "faster": ratio}
        print(f"{name}: {median}, {ratio:.2f} x", flush=True)
    save("student_step.json", {"question": __doc__.splitlines()[0], "results": results})


if __name__ == "__main__":
    main()
