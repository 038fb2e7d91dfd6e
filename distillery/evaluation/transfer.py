"""What students have learned, used on classes that they have not seen.

One-shot retrieval looks for the nearest other image in their features; fine-tuning goes on
training them. Beside each stands the same network without the distilled set.
Source: Vahidian et al. (2024), appendix D.1. Shapes: N images, D features.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.data.normalise import NormalisedImages
from distillery.evaluation.harness import ImageSet, build_bench, measure, spread
from distillery.evaluation.inputs import Target, Work
from distillery.evaluation.pool import Figures, Trial
from distillery.evaluation.protocols import Recipe, fine_tuning
from distillery.evaluation.student import train_student
from distillery.evaluation.tables import run_rows
from distillery.evaluation.training import inference_batch
from distillery.models.classifiers import Classifier
from distillery.seeds import derive_seed


def retrieval_table(work: Work) -> list[dict[str, Any]]:
    """Return the retrieval accuracy of students and of untrained networks, a row each."""
    target = _target(work)
    images = torch.from_numpy(target.test[0]).to(work.device)
    normalised = NormalisedImages(images, work.inputs.normalisation)
    labels = torch.from_numpy(target.test[1]).to(work.device)

    def measured(network: Classifier) -> Figures:
        return {"accuracy": retrieval_accuracy(features_of(network.eval(), normalised), labels)}

    def with_set(name: str, number: int) -> Trial:
        def run(on_step: Callable[[int], None]) -> Figures:
            return measured(_pretrained(work, name, number, on_step))

        steps = work.setting.recipes[name].num_epochs
        return Trial(f"set/{name}/{number}", steps, f"{name}, student {number + 1}", run)

    def without(name: str, number: int) -> Trial:
        def run(on_step: Callable[[int], None]) -> Figures:
            return measured(work.new_network(name, work.inputs.num_classes, name, number))

        return Trial(f"untrained/{name}/{number}", 1, f"{name}, untrained", run)

    return _rows(work, with_set, without, "untrained")


def fine_tuning_table(work: Work) -> list[dict[str, Any]]:
    """Return the accuracy on the target of students and of networks from scratch, a row each."""
    target = _target(work)
    bench = build_bench(
        *target.test, normalisation=work.inputs.normalisation, num_classes=target.num_classes,
        num_groups=0, shifts=False, device=work.device,
    )  # fmt: skip

    def tuned(network: Classifier, name: str, number: int, on_step: Any, done: int) -> Figures:
        new = work.new_network(name, target.num_classes, "target", name, number)
        network.head = new.head
        train_student(
            network, work.training_set(ImageSet(*target.train)), _tuning(work, name),
            seed=derive_seed(work.seed, "protocol", "target", name, number),
            flip=work.setting.flip, on_epoch=lambda epoch: on_step(done + epoch),
        )  # fmt: skip
        over = done + _tuning(work, name).num_epochs
        return {"accuracy": measure(network, bench, on_batch=lambda _: on_step(over))["accuracy"]}

    def with_set(name: str, number: int) -> Trial:
        epochs = work.setting.recipes[name].num_epochs

        def run(on_step: Callable[[int], None]) -> Figures:
            return tuned(_pretrained(work, name, number, on_step), name, number, on_step, epochs)

        steps = epochs + _tuning(work, name).num_epochs
        return Trial(f"set/{name}/{number}", steps, f"{name}, student {number + 1}", run)

    def without(name: str, number: int) -> Trial:
        def run(on_step: Callable[[int], None]) -> Figures:
            network = work.new_network(name, target.num_classes, name, number)
            return tuned(network, name, number, on_step, 0)

        message = f"{name} from scratch"
        return Trial(f"scratch/{name}/{number}", _tuning(work, name).num_epochs, message, run)

    return _rows(work, with_set, without, "from scratch")


def _target(work: Work) -> Target:
    target = work.inputs.target
    assert target is not None, "transfer needs a second dataset"
    return target


def _tuning(work: Work, name: str) -> Recipe:
    """Return how a student of this network goes on learning."""
    return fine_tuning(work.setting.recipes[name])


def _pretrained(work: Work, name: str, number: int, on_step: Callable[[int], None]) -> Classifier:
    """Return a student of the distilled set."""
    student = work.new_network(name, work.inputs.num_classes, name, number)
    train_student(
        student, work.training_set(work.inputs.distilled), work.setting.recipes[name],
        seed=derive_seed(work.seed, "protocol", name, number), flip=work.setting.flip,
        on_epoch=on_step,
    )  # fmt: skip
    return student


def _rows(
    work: Work, with_set: Callable[[str, int], Trial], without: Callable[[str, int], Trial],
    control: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return two rows for each network: with the distilled set, and without it."""
    numbers = range(work.setting.num_repeats)
    trials = {}
    for name in work.setting.recipes:
        trials[name] = [with_set(name, number) for number in numbers]
        trials[f"{name}, {control}"] = [without(name, number) for number in numbers]
    runs = run_rows(work, trials)
    return [
        {
            "name": row, "label": row, "is_ours": row in work.setting.recipes,
            "accuracy": spread([figures["accuracy"] for figures in of_row]),
        }
        for row, of_row in runs.items()
    ]  # fmt: skip


@torch.no_grad()
def features_of(network: nn.Module, images: NormalisedImages) -> Tensor:
    """Return the features (N, D) of normalised images."""
    parts = images.split(inference_batch(images.shape[-1]))
    return torch.cat([cast(Classifier, network).features(part) for part in parts])


def retrieval_accuracy(features: Tensor, labels: Tensor) -> float:
    """Return how often the image most similar to one, of all others, is of its class.

    Args:
        features: (N, D); similarity is the cosine.
        labels: int64 (N,).
    """
    directions = F.normalize(features, dim=1)
    right = 0
    for start in range(0, len(directions), 1000):
        similarity = directions[start : start + 1000] @ directions.T  # (1000, N)
        rows = torch.arange(len(similarity), device=similarity.device)
        similarity[rows, start + rows] = -torch.inf  # not the image itself
        nearest = similarity.argmax(1)
        right += int((labels[nearest] == labels[start : start + 1000]).sum())
    return right / len(directions)
