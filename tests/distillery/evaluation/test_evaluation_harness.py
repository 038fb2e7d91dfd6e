"""The harness: figures by hand, fair seeds, hard and soft labels apart."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distillery.data.normalise import measure_normalisation
from distillery.errors import Cancelled
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.harness import (
    SHIFTS,
    ImageSet,
    TestBench,
    build_bench,
    judge,
    judge_together,
    judging_steps,
    measure,
    pooled,
    spread,
    summarise,
)
from distillery.files import json_bytes

RECIPE = StudentConfig(network="convnet-d1-w8", num_steps=20, augmentation="none")
Blobs = tuple[np.ndarray, np.ndarray]


def bench_of(blobs: Blobs, num_classes: int = 2, **options: bool) -> TestBench:
    images, labels = blobs
    return build_bench(
        images, labels, normalisation=measure_normalisation(images), num_classes=num_classes,
        num_groups=2, **options,
    )  # fmt: skip


class BrightAbove(nn.Module):
    """Class 0 where the upper half is the brighter one: right on the blobs, wrong on negatives."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.mean((1, 3))
        half = rows.shape[1] // 2
        return torch.stack([rows[:, :half].mean(1), rows[:, half:].mean(1)], 1)


def test_figures_of_a_known_network(blobs: Blobs) -> None:
    figures = measure(BrightAbove(), bench_of(blobs))
    assert figures["accuracy"] == figures["noise"] == figures["blur"] == 1.0
    assert figures["invert"] == 0.0
    assert figures["per_class"] == [1.0, 1.0] and figures["cluster_min"] == 1.0


def test_each_class_is_counted_by_itself(blobs: Blobs) -> None:
    images, labels = blobs
    labels = labels.copy()
    labels[:10] = 1  # a quarter of what looks like class 0 is called class 1
    figures = measure(BrightAbove(), bench_of((images, labels)))
    assert figures["per_class"] == [1.0, 0.8]  # 40 of the 50 called 1
    assert figures["accuracy"] == pytest.approx(70 / 80)
    assert figures["cluster_min"] == pytest.approx(30 / 40)
    assert sorted(row["n_test"] for row in figures["groups"]) == [40, 40]


def test_a_class_without_test_images_has_no_accuracy_and_breaks_nothing(blobs: Blobs) -> None:
    figures = measure(nn.Sequential(BrightAbove(), nn.ZeroPad2d((0, 1))), bench_of(blobs, 3))
    assert figures["per_class"] == [1.0, 1.0, None]
    row = summarise([figures, figures])
    assert row["per_class"] == [1.0, 1.0, None]
    json_bytes(row)  # can be written


def test_shifts_can_be_left_out(blobs: Blobs) -> None:
    figures = measure(BrightAbove(), bench_of(blobs, shifts=False))
    assert not set(SHIFTS) & set(figures)
    assert not set(SHIFTS) & set(summarise([figures]))


def test_a_student_learns_from_raw_images_and_is_the_same_each_time(blobs: Blobs) -> None:
    images, labels = blobs
    bench = bench_of(blobs)
    few = ImageSet(images[::8], labels[::8])
    first, second = (judge(few, bench, RECIPE, seed=5) for _ in range(2))
    assert first == second and first["accuracy"] > 0.95
    flipped = judge(ImageSet(images[::8], 1 - labels[::8]), bench, RECIPE, seed=5)
    assert flipped["accuracy"] < 0.05


def test_the_test_of_a_student_is_part_of_its_steps_and_can_be_cancelled(blobs: Blobs) -> None:
    images, labels = blobs
    bench = bench_of(blobs)
    recipe = StudentConfig(network="convnet-d1-w8", num_steps=2, batch_size=8)
    total = judging_steps(recipe, bench)
    assert total == 2 + 4 * len(images) // 24  # clean and three shifts, three images a step's image
    told: list[int] = []
    judge(ImageSet(images[::8], labels[::8]), bench, recipe, seed=5, on_step=told.append)
    assert told == sorted(told) and told[:2] == [1, 2] and told[-1] == total

    def cancel(step: int) -> None:
        if step > recipe.num_steps:
            raise Cancelled

    with pytest.raises(Cancelled):
        judge(ImageSet(images[::8], labels[::8]), bench, recipe, seed=5, on_step=cancel)


def test_soft_labels_are_what_a_soft_student_learns(blobs: Blobs) -> None:
    images, labels = blobs[0][::8], blobs[1][::8]
    sure = np.where(np.eye(2, dtype=bool)[labels], 20, -20).astype(np.float16)
    figures = {
        name: judge(ImageSet(images, labels, teacher), bench_of(blobs), RECIPE, seed=5)
        for name, teacher in {"hard": None, "sure": sure, "contrary": -sure}.items()
    }
    assert figures["sure"] == figures["hard"]  # the same targets
    assert figures["contrary"]["accuracy"] < 0.95  # targets of one half each teach nothing


def test_spread_by_hand() -> None:
    assert spread([0.5, 0.7]) == {
        "mean": pytest.approx(0.6), "std": pytest.approx(0.02**0.5), "runs": [0.5, 0.7],
    }  # fmt: skip
    assert spread([0.5]) == {"mean": 0.5, "std": 0.0, "runs": [0.5]}
    assert spread([0.5, None]) is None


def test_a_row_has_the_mean_of_every_figure() -> None:
    def run(value: float) -> dict:
        group = {"id": "g0", "n_test": 40, "accuracy": value}
        small = {"id": "g1", "n_test": 3, "accuracy": None}
        return {"accuracy": value, "cluster_min": value, "per_class": [value, 1.0],
                "groups": [group, small], "noise": value}  # fmt: skip

    row = summarise([run(0.2), run(0.4)])
    assert row["accuracy"]["mean"] == row["noise"]["mean"] == pytest.approx(0.3)
    assert row["per_class"] == pytest.approx([0.3, 1.0])
    assert row["groups"][0] == {"id": "g0", "n_test": 40, "accuracy": pytest.approx(0.3)}
    assert row["groups"][1]["accuracy"] is None
    assert "blur" not in row


@pytest.mark.parametrize("soft", [False, True])
def test_students_judged_together_have_the_figures_of_each_alone(blobs: Blobs, soft: bool) -> None:
    images, labels = blobs
    bench = bench_of(blobs)
    logits = np.eye(2, dtype=np.float16)[labels] * 4 if soft else None
    sets = [
        ImageSet(images[n::16], labels[n::16], None if logits is None else logits[n::16])
        for n in (0, 0, 3)
    ]
    sets[1] = sets[0]  # a set that two students share
    recipe = StudentConfig(network="convnet-d1-w8", num_steps=10, learning_rate=1e-3)
    told: list[int] = []
    figures = judge_together(sets, bench, recipe, seeds=[5, 6, 7], on_step=told.append)
    assert told[:10] == list(range(1, 11)) and told[-1] == judging_steps(recipe, bench)
    alone = [judge(one, bench, recipe, seed=s) for one, s in zip(sets, (5, 6, 7), strict=True)]
    for ours, theirs in zip(figures, alone, strict=True):
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1 / len(labels))
        assert set(ours) == set(theirs)


def test_a_set_that_students_share_is_held_once(blobs: Blobs) -> None:
    images, labels = blobs
    first, second = ImageSet(images[:6], labels[:6]), ImageSet(images[6:12], labels[6:12])
    whole, rows = pooled([first, second, first])
    assert len(whole.images) == len(whole.labels) == 12
    assert [own[0] for own in rows.tolist()] == [0, 6, 0]
    for own, one in zip(rows, (first, second, first), strict=True):
        assert (whole.images[own] == one.images).all() and (whole.labels[own] == one.labels).all()
    with pytest.raises(ValueError, match=r"sets of one size .* got \[5, 6\] images"):
        pooled([first, ImageSet(images[:5], labels[:5])])
