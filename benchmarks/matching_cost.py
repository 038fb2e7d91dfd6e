"""What a DM iteration costs: all classes in one pass, or a loop over them; allocator apart.

    python -m benchmarks.matching_cost [--device cuda] [--rounds 5] [--plain-allocator]

Both ways take the same real images, networks and step; rounds alternate, medians are compared. Five
students together or one after another is `benchmarks.batched_students`. Without an option the
allocator is set as our commands set it; `--plain-allocator` leaves it as `python` starts, so that
the gain of our start is shown apart. Run both; each adds its side to the result file.
"""

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.jobs import RESULTS, environment
from distillery.files import read_json, write_json
from distillery.machine import keep_large_buffers
from robust.distil import Budget, distil
from robust.methods import method_for
from robust.networks import Surroundings
from robust.parameters import Pixels
from robust.refine import RealImages

NUM_CLASSES = 10
IMAGES_PER_CLASS = 10
RESULT = "matching_cost.json"


def seconds_per_iteration(around: Surroundings, classes_per_step: int, iterations: int) -> float:
    """Return the seconds of one DM iteration with so many classes in a pass.

    On a CPU those of its one thread, which other work on the machine lengthens least.
    """
    device = around.reals.images.device
    labels = torch.arange(NUM_CLASSES, device=device).repeat_interleave(IMAGES_PER_CLASS)
    start = around.reals.images[labels * 100]
    method = replace(method_for("dm", IMAGES_PER_CLASS), reals_per_class=64)
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    if on_gpu:
        torch.cuda.synchronize()
    began = clock()
    distil(
        method, start, labels, around, Pixels(lambda images: images),
        budget=Budget(iterations=iterations), classes_per_step=classes_per_step,
    )  # fmt: skip
    if on_gpu:
        torch.cuda.synchronize()
    return (clock() - began) / iterations


def measure(device: str, width: int, rounds: int, iterations: int) -> dict[str, Any]:
    """Return the seconds of both ways, round by round, and how much faster one pass is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1000, 3, 32, 32, generator=generator).to(device)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(100).to(device)
    around = Surroundings(f"convnet-d3-w{width}", RealImages(images, labels), NUM_CLASSES, seed=0)
    ways = {"together": NUM_CLASSES, "loop": 1}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round_number in range(rounds + 1):
        for way, classes in ways.items():
            seconds = seconds_per_iteration(around, classes, iterations)
            if round_number:  # the first round warms up
                times[way].append(seconds)
    median = {way: statistics.median(values) for way, values in times.items()}
    print(f"{device}: {median}, {median['loop'] / median['together']:.2f} x", flush=True)
    return {"seconds": times, "median": median, "faster": median["loop"] / median["together"]}


def main() -> None:
    """Measure one device at one allocator setting, and add it to the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--plain-allocator", action="store_true")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    if not options.plain_allocator:
        keep_large_buffers()
    side = measure(options.device, options.width, options.rounds, options.iterations)
    path = RESULTS / RESULT
    result = read_json(path) if path.exists() else {"sides": {}}
    name = f"{options.device}, {'plain' if options.plain_allocator else 'our'} allocator"
    if options.device != "cpu":  # where no allocator of ours has a part
        name = f"{options.device}, width {options.width}"
    result["sides"][name] = side | {"width": options.width}
    cpu = [result["sides"].get(f"cpu, {kind} allocator") for kind in ("plain", "our")]
    if all(cpu):
        result["our_start_gains"] = cpu[0]["median"]["together"] / cpu[1]["median"]["together"]
    if not options.plain_allocator:  # environment() itself sets the allocator
        result.setdefault("environments", {})[options.device] = environment()
    write_json(path, result)


if __name__ == "__main__":
    main()
