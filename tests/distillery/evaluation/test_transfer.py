"""Students on classes they have not seen, and classes that come in steps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tables import Blobs, work_of

from distillery.errors import ConfigError
from distillery.evaluation.continual import NUM_ORDERS, only, seen_classes
from distillery.evaluation.harness import ImageSet
from distillery.evaluation.inputs import Target, Work
from distillery.evaluation.protocol_run import run_protocol
from distillery.evaluation.protocols import Case, find_protocol
from distillery.evaluation.setting import Overrides, resolve
from distillery.evaluation.transfer import retrieval_accuracy


def with_target(work: Work, blobs: Blobs) -> Work:
    """Add a target of two other classes: bright at the left, bright at the right."""
    images = np.ascontiguousarray(blobs[0].transpose(0, 1, 3, 2))
    split = (images, blobs[1])
    target = Target(name="sides", fingerprint="f", train=split, test=split, num_classes=2)
    return replace(work, inputs=replace(work.inputs, target=target))


def test_retrieval_by_hand() -> None:
    """Directions 0, 10, 80 and 100 degrees: the first two and the last two are neighbours."""
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 80.0, 100.0]))
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1], [5], [2], [9]])
    assert retrieval_accuracy(features, torch.tensor([0, 0, 1, 1])) == 1.0
    assert retrieval_accuracy(features, torch.tensor([0, 1, 1, 0])) == 0.0
    assert retrieval_accuracy(features, torch.tensor([0, 0, 1, 2])) == 0.5


def test_retrieval_in_parts_is_retrieval_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1500, 4, generator=generator)
    labels = torch.randint(3, (1500,), generator=generator)
    similarity = torch.nn.functional.normalize(features, dim=1)
    similarity = similarity @ similarity.T
    nearest = similarity.fill_diagonal_(-2).argmax(1)
    expected = float((labels[nearest] == labels).double().mean())
    assert retrieval_accuracy(features, labels) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "control"), [("retrieval", "untrained"),
                                               ("fine-tuning", "from scratch")])  # fmt: skip
def test_transfer_stands_beside_the_same_network_without_the_set(
    blobs: Blobs, tmp_path: Path, name: str, control: str
) -> None:
    work = with_target(work_of(blobs, tmp_path, name, num_epochs=6), blobs)
    result = run_protocol(work)
    rows = result["results"]["hard"]
    assert [row["label"] for row in rows] == ["convnet-d1-w8", f"convnet-d1-w8, {control}"]
    assert [row["is_ours"] for row in rows] == [True, False]
    assert all(row["accuracy"]["mean"] > 0.6 for row in rows)
    assert run_protocol(work) == result


def test_classes_come_in_even_steps_in_random_orders() -> None:
    seen = seen_classes(10, 4, seed=0)
    assert len(seen) == NUM_ORDERS
    for order in seen:
        assert [len(stage) for stage in order] == [3, 6, 8, 10]
        assert all(set(a) < set(b) for a, b in zip(order, order[1:], strict=False))
    assert len({tuple(order[-1]) for order in seen}) == NUM_ORDERS
    assert all((a == b).all() for a, b in zip(seen[0], seen_classes(10, 4, 0)[0], strict=True))


def test_only_some_classes_are_labelled_by_their_place() -> None:
    images, labels = np.arange(5)[:, None, None, None], np.array([0, 2, 1, 2, 0])
    kept, renamed = only((images, labels), np.array([2, 0]))
    assert kept.ravel().tolist() == [0, 1, 3, 4] and renamed.tolist() == [1, 0, 0, 1]


def test_a_row_for_each_step_with_the_spread_of_orders(blobs: Blobs, tmp_path: Path) -> None:
    work = work_of(blobs, tmp_path, "continual", num_stages=2, num_epochs=8, num_repeats=1)
    rows = run_protocol(work)["results"]["hard"]
    assert [row["num_known_classes"] for row in rows] == [1, 2]
    assert rows[0]["accuracy"]["mean"] == 1.0  # one class to choose from
    assert len(rows[1]["accuracy"]["runs"]) == NUM_ORDERS and rows[1]["accuracy"]["mean"] > 0.8


def test_the_buffer_holds_stored_images_whatever_they_pack(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_of(blobs, tmp_path, "continual", num_stages=2, num_epochs=1, num_repeats=1)
    distilled = work.inputs.distilled
    quartered = ImageSet(np.repeat(distilled.images, 4, 0), np.repeat(distilled.labels, 4))
    work = replace(work, inputs=replace(work.inputs, distilled=quartered))
    asked: list[int] = []
    monkeypatch.setattr(
        "distillery.evaluation.continual.first_of",
        lambda images, count: asked.append(count) or images,
    )
    run_protocol(work)
    assert asked == [80]  # 20 stored ones, four pictures in each


def test_steps_that_do_not_fit_are_refused() -> None:
    case = Case(images_per_class=20, num_classes=10, image_size=8, channels=1)
    with pytest.raises(ConfigError, match="10 classes cannot come in 11 steps"):
        resolve(find_protocol("continual"), case, Overrides(num_stages=11))
    with pytest.raises(ConfigError, match="leave --steps out"):
        resolve(find_protocol("dc-small"), case, Overrides(num_stages=5))
    with pytest.raises(ConfigError, match="steps must be 1 or more"):
        Overrides(num_stages=0)
    setting = resolve(find_protocol("continual"), case, Overrides(num_stages=2))
    assert setting.deviations == ("classes in 2 steps, not 5 or 10",)
