"""Continual learning with a distilled buffer: classes come in steps, students see the buffer only.

After each step fresh students are trained on the buffer of all classes so far and tested on those
classes; five random orders of the classes give mean and spread.
Source: Deng et al. (2024), IID, section 4.5, which follows Zhao & Bilen (2023).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from distillery.evaluation.harness import ImageSet, build_bench, measure, spread
from distillery.evaluation.inputs import Split, Work
from distillery.evaluation.pool import Figures, Trial
from distillery.evaluation.protocols import BUFFER_SIZE
from distillery.evaluation.student import train_student
from distillery.evaluation.tables import first_of, pictures_per_image, run_rows
from distillery.seeds import derive_seed, numpy_rng

NUM_ORDERS = 5


def continual_table(work: Work) -> list[dict[str, Any]]:
    """Return one row for each step of each network: accuracy on all classes seen so far."""
    buffer = first_of(work.inputs.distilled, BUFFER_SIZE * pictures_per_image(work))
    seen = seen_classes(work.inputs.num_classes, work.setting.num_stages, work.seed)
    numbers = range(work.setting.num_repeats)
    trials = {
        f"{network}/{stage}": [
            _trial(work, buffer, network, order, stage, number, seen[order][stage])
            for order in range(NUM_ORDERS)
            for number in numbers
        ]
        for network in work.setting.recipes
        for stage in range(work.setting.num_stages)
    }
    runs = run_rows(work, trials)
    return [_row(key, figures, seen[0], len(numbers)) for key, figures in runs.items()]


def seen_classes(num_classes: int, num_stages: int, seed: int) -> list[list[np.ndarray]]:
    """Return, for each order of the classes, those known after each step, as growing arrays."""
    orders = [numpy_rng(seed, "class-order", i).permutation(num_classes) for i in range(NUM_ORDERS)]
    ends = [len(np.concatenate(parts)) for parts in _growing(num_classes, num_stages)]
    return [[order[:end] for end in ends] for order in orders]


def _growing(num_classes: int, num_stages: int) -> list[list[np.ndarray]]:
    """Return the first 1, 2, ... parts of the classes, as even as can be."""
    parts = np.array_split(np.arange(num_classes), num_stages)
    return [parts[: count + 1] for count in range(num_stages)]


def only(split: Split, classes: np.ndarray) -> Split:
    """Return the images of some classes, labelled by their place in `classes`."""
    images, labels = split
    place = np.full(int(max(labels.max(), classes.max())) + 1, -1, np.int64)
    place[classes] = np.arange(len(classes))
    kept = place[labels] >= 0
    return images[kept], place[labels][kept]


def _trial(
    work: Work, buffer: ImageSet, network: str, order: int, stage: int, number: int,
    classes: np.ndarray,
) -> Trial:  # fmt: skip
    """Return the training of one student after one step."""
    recipe = work.setting.recipes[network]
    path = ("continual", network, order, stage, number)

    def run(on_step: Callable[[int], None]) -> Figures:
        student = work.new_network(network, len(classes), *path)
        known = ImageSet(*only((buffer.images, buffer.labels), classes))
        train_student(
            student, work.training_set(known), recipe,
            seed=derive_seed(work.seed, "protocol", *path), flip=work.setting.flip,
            on_epoch=on_step,
        )  # fmt: skip
        bench = build_bench(
            *only(work.inputs.test, classes), normalisation=work.inputs.normalisation,
            num_classes=len(classes), num_groups=0, shifts=False, device=work.device,
        )  # fmt: skip
        figures = measure(student, bench, on_batch=lambda _: on_step(recipe.num_epochs))
        return {"accuracy": figures["accuracy"]}

    message = f"{network}, order {order + 1}, step {stage + 1}, student {number + 1}"
    return Trial("/".join(map(str, path)), recipe.num_epochs, message, run)


def _row(
    key: str, figures: list[Figures], seen: list[np.ndarray], num_repeats: int
) -> dict[str, Any]:
    """Return one row: the mean over the students of an order is one run."""
    network, stage = key.split("/")
    accuracies = np.array([f["accuracy"] for f in figures]).reshape(-1, num_repeats)
    known = len(seen[int(stage)])
    return {
        "name": key,
        "label": f"step {int(stage) + 1}: {known} classes, {network}",
        "is_ours": True,
        "num_known_classes": known,
        "accuracy": spread(accuracies.mean(1).tolist()),
    }
