"""Networks of a method: a queue that forgets its oldest, training that is counted, batches."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robust.matching_types import Batch, NetworkPlan
from robust.methods import method_for, robust_variant
from robust.networks import NetworkQueue, Surroundings, Trainee, open_networks
from robust.objective import PRESETS, GroupRobust
from robust.refine import RealImages

LABELS = torch.arange(3).repeat_interleave(20)


def _around(**changes) -> Surroundings:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(60, 1, 8, 8, generator=generator) + LABELS[:, None, None, None]
    return Surroundings("convnet-d1-w4", RealImages(images, LABELS), 3, seed=7, **changes)


def _synthetic() -> Batch:
    return Batch(_around().reals.images[::5], LABELS[::5])  # 4 of each class


def _queue(**changes) -> NetworkQueue:
    plan = NetworkPlan(
        source="queue", queue_every=2, queue_size=5, steps=1, batch_size=9,
        trained_per_iteration=2, **changes,
    )  # fmt: skip
    stream = open_networks(plan, _around())
    assert isinstance(stream, NetworkQueue)
    return stream


def test_the_queue_begins_with_four_grows_and_forgets_its_oldest() -> None:
    queue, numbers = _queue(), []
    for iteration in range(8):
        queue.at(iteration, _synthetic)
        numbers.append(list(queue._queue))
    assert numbers[0] == [0, 1, 2, 3]
    assert numbers[2] == [0, 1, 2, 3, 4]
    assert numbers[4] == [1, 2, 3, 4, 5]
    assert numbers[7] == [2, 3, 4, 5, 6]


def test_networks_of_the_queue_differ_and_the_trained_ones_are_two_different_ones() -> None:
    queue = _queue()
    queue.at(0, _synthetic)
    before = [trainee.network.head.weight.detach().clone() for trainee in queue._queue.values()]
    assert not torch.equal(before[0], before[1])
    queue.after(0, _synthetic)
    moved = [
        not torch.equal(old, trainee.network.head.weight)
        for old, trainee in zip(before, queue._queue.values(), strict=True)
    ]
    assert sum(moved) == 2


def test_a_queue_that_was_saved_goes_on_as_one_that_was_not() -> None:
    queue = _queue()
    for iteration in range(5):
        queue.at(iteration, _synthetic)
        queue.after(iteration, _synthetic)
    other = _queue()
    other.load(queue.state())
    for each in (queue, other):
        each.at(6, _synthetic)
        each.after(6, _synthetic)
    assert list(queue._queue) == list(other._queue)
    for number, trainee in queue._queue.items():
        twin = other._queue[number]
        assert torch.equal(trainee.network.head.weight, twin.network.head.weight)
        assert trainee.accuracy() == twin.accuracy()


def test_accuracy_in_training_counts_what_was_told_right() -> None:
    trainee = Trainee(NetworkPlan(source="trained", batch_size=30), _around(), 0)
    assert trainee.accuracy() == 0
    trainee._count(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert trainee.accuracy() == 50
    trainee._count(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0]))
    assert trainee.accuracy() == 75


@pytest.mark.parametrize("name", ["dc", "dsa"])
@pytest.mark.parametrize("images_per_class", [1, 10])
def test_a_robust_variant_looks_through_trained_networks(name: str, images_per_class: int) -> None:
    method = robust_variant(method_for(name, images_per_class))
    stream = open_networks(replace(method.networks, batch_size=12), _around())
    for iteration in range(2):
        network = stream.at(iteration, _synthetic)
        stream.after(iteration, _synthetic)
    assert stream.accuracy() > 0 and network is not None


def test_the_reference_preset_draws_as_many_images_of_each_class() -> None:
    robust = GroupRobust(max_over="all", min_cluster_size=1, samples_per_class=4)
    trainee = Trainee(NetworkPlan(source="trained", batch_size=6, robust=robust), _around(), 0)
    _, labels = trainee._draw(torch.Generator().manual_seed(0))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert PRESETS["reference"].samples_per_class == 256


@pytest.mark.parametrize("num_centres", [1, 3])
def test_clusters_form_around_as_many_images_as_asked(num_centres: int, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        "robust.networks.cluster_around",
        lambda features, labels, around, centre_labels, **options: (
            seen.append(centre_labels.tolist()) or labels * options["clusters_per_class"]
        ),
    )
    plan = NetworkPlan(source="trained", batch_size=30, robust=GroupRobust())
    Trainee(plan, _around(num_centres=num_centres), 0).train_on_reals(1, _synthetic)
    assert seen == [sorted([0, 1, 2] * num_centres)]


def test_only_centres_of_the_classes_in_a_batch_go_through_the_network(monkeypatch) -> None:
    robust = GroupRobust(min_cluster_size=1)
    trainee = Trainee(NetworkPlan(source="trained", batch_size=5, robust=robust), _around(), 0)
    seen: list[int] = []
    plain = trainee.network.features
    monkeypatch.setattr(trainee.network, "features", lambda x: seen.append(len(x)) or plain(x))
    reals = _around().reals
    batch = Batch(reals.images[:5], LABELS[:5])  # of class 0 alone
    loss = trainee._robust_loss(robust, batch, _synthetic())
    assert seen == [5, 4] and torch.isfinite(loss)
    seen.clear()
    trainee._robust_loss(robust, Batch(reals.images[::12], LABELS[::12]), _synthetic())
    assert seen == [5, 5, 5, 2]  # no more at once than real images


def test_cutmix_by_hand() -> None:
    """The loss is that of the mixed images, each label by the share of its pixels."""
    trainee = Trainee(NetworkPlan(source="trained", cutmix=True), _around(), 0)
    images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    images[1] = 1
    mixes = []
    trainee.network.forward = lambda batch: (
        mixes.append(batch)
        or torch.stack(  # type: ignore
            [batch.mean((1, 2, 3)), -batch.mean((1, 2, 3)), torch.zeros(len(batch))], 1
        )
    )
    for seed in range(30):  # until the partner is the other image and the rectangle is not empty
        mixes.clear()
        loss = trainee._cutmix_loss(images, labels, torch.Generator().manual_seed(seed))
        share = float(mixes[0][0].mean())
        if 0 < share < 1:
            break
    assert 0 < share < 1  # of image 0, what is now image 1
    assert float(mixes[0][1].mean()) == pytest.approx(1 - share)
    logits = torch.tensor([[share, -share, 0], [1 - share, share - 1, 0]])
    own, other = F.cross_entropy(logits, labels), F.cross_entropy(logits, labels.flip(0))
    assert float(loss) == pytest.approx(float((1 - share) * own + share * other), rel=1e-5)
