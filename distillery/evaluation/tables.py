"""Protocols that give accuracies: one row a network, or one row for each number of images.

Every row is mean and spread over students of the same set, each with its own seed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distillery.evaluation.harness import (
    ImageSet,
    TestBench,
    build_bench,
    measure,
    summarise,
)
from distillery.evaluation.inputs import Inputs, Work
from distillery.evaluation.pool import Figures, Trial, run_trials
from distillery.evaluation.protocols import RATIOS
from distillery.evaluation.setting import Setting
from distillery.evaluation.student import train_student
from distillery.evaluation.training import accuracy
from distillery.seeds import derive_seed, numpy_rng

NUM_GROUPS = 10
"""Clusters of test images (Vahidian et al. 2024)."""
BLUR_RADIUS = 2.0
"""Published radius of the robust protocol's blur, at every size."""
NUM_LOOKS = 100
"""How often a student is measured on the way, where the best epoch is wanted."""


def bench_of(setting: Setting, inputs: Inputs, device: Any) -> TestBench:
    """Return the test bench with what the protocol measures on it."""
    is_robust = setting.protocol.is_robust
    return build_bench(
        *inputs.test, normalisation=inputs.normalisation, num_classes=inputs.num_classes,
        num_groups=NUM_GROUPS if is_robust else 0, shifts=is_robust, blur_radius=BLUR_RADIUS,
        device=device,
    )  # fmt: skip


def student_trial(
    work: Work, bench: TestBench, image_set: ImageSet, network: str, number: int, *, name: str
) -> Trial:
    """Return the training of one student of a set; `name` keeps sets apart."""
    recipe = work.setting.recipes[network]

    def run(on_step: Callable[[int], None]) -> Figures:
        student = work.new_network(network, bench.num_classes, network, number)
        looks = max(1, recipe.num_epochs // NUM_LOOKS)
        best = [0.0]

        def on_epoch(epoch: int) -> None:
            on_step(epoch)
            if work.keep_best and (epoch % looks == 0 or epoch == recipe.num_epochs):
                student.eval()
                best.append(accuracy_on(student, bench))

        train_student(
            student, work.training_set(image_set), recipe,
            seed=derive_seed(work.seed, "protocol", network, number), flip=work.setting.flip,
            on_epoch=on_epoch,
        )  # fmt: skip
        # cancelled between batches of test images too
        figures = measure(student, bench, on_batch=lambda _: on_step(recipe.num_epochs))
        return figures | ({"best": max(best)} if work.keep_best else {})

    message = f"{network}, student {number + 1} of {work.setting.num_repeats}"
    return Trial(f"{name}/{network}/{number}", recipe.num_epochs, message, run)


def accuracy_on(network: Any, bench: TestBench) -> float:
    """Return the accuracy on the clean test images."""
    import torch

    clean = bench.views["clean"]
    return accuracy(network, clean, torch.from_numpy(bench.labels).to(clean.device))


def accuracy_table(work: Work) -> list[dict[str, Any]]:
    """Return one row for each network of the setting."""
    bench = bench_of(work.setting, work.inputs, work.device)
    names = {network: work.inputs.distilled for network in work.setting.recipes}
    trials = {
        network: [
            student_trial(work, bench, image_set, network, number, name="set")
            for number in range(work.setting.num_repeats)
        ]
        for network, image_set in names.items()
    }
    runs = run_rows(work, trials)
    return [_row(network, network, runs[network], is_ours=True) for network in trials]


def pictures_per_image(work: Work) -> int:
    """Return how many pictures each stored image of the set holds; students see those."""
    pictures = int(np.bincount(work.inputs.distilled.labels).max())  # of the largest class
    return pictures // work.setting.case.images_per_class


def ratio_table(work: Work) -> list[dict[str, Any]]:
    """Return rows for the first 1, 10, ... images of each class, and as many random real ones."""
    bench = bench_of(work.setting, work.inputs, work.device)
    distilled, train = work.inputs.distilled, work.inputs.train
    assert train is not None, "the table of ratios reads the train split"
    ipc = work.setting.case.images_per_class
    counts = [count for count in RATIOS if count < ipc] + [ipc]
    pictures = pictures_per_image(work)
    trials: dict[str, list[Trial]] = {}
    for network in work.setting.recipes:
        for count in counts:
            ours = first_of(distilled, count * pictures)
            reals = random_reals(train, count, work.seed)
            for kind, image_set in (("distilled", ours), ("real", reals)):
                name = f"{kind}-{count}"
                trials[f"{network}/{name}"] = [
                    student_trial(work, bench, image_set, network, number, name=name)
                    for number in range(work.setting.num_repeats)
                ]
    runs = run_rows(work, trials)
    rows = []
    for key, figures in runs.items():
        network, name = key.split("/")
        kind, _, text = name.partition("-")
        label = f"{'first' if kind == 'distilled' else 'random real'} {text}, {network}"
        row = _row(key, label, figures, is_ours=kind == "distilled")
        share = int(text) * work.inputs.num_classes / len(train[1])
        rows.append(row | {"images_per_class": int(text), "share_of_train": share})
    return rows


def first_of(image_set: ImageSet, count: int) -> ImageSet:
    """Return the first `count` images of each class, in their order."""
    order = np.argsort(image_set.labels, kind="stable")
    labels = image_set.labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    kept = np.sort(order[rank < count])
    logits = image_set.teacher_logits
    return ImageSet(
        image_set.images[kept], image_set.labels[kept], None if logits is None else logits[kept]
    )


def random_reals(train: tuple[np.ndarray, np.ndarray], count: int, seed: int) -> ImageSet:
    """Return `count` random real images of each class (all where a class has fewer)."""
    images, labels = train
    chosen = [
        numpy_rng(seed, "random-real", int(label)).permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels)
    ]
    index = np.concatenate([members[:count] for members in chosen])
    return ImageSet(images[index], labels[index])


def run_rows(work: Work, trials: Mapping[str, list[Trial]]) -> dict[str, list[Figures]]:
    """Return the figures of all trials, by the row that they belong to."""
    figures = run_trials(
        [trial for group in trials.values() for trial in group], store=work.store,
        num_workers=work.num_workers, phase="evaluate", on_progress=work.on_progress,
    )  # fmt: skip
    return {row: [figures[trial.key] for trial in group] for row, group in trials.items()}


def _row(name: str, label: str, runs: list[Figures], *, is_ours: bool) -> dict[str, Any]:
    """Return one row of the result."""
    return {"name": name, "label": label, "is_ours": is_ours} | dict(summarise(runs))
