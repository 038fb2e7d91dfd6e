"""The proxy: its objective by hand, what it learns, and when it must not select."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distillery.models.classifiers import build_classifier
from robust.config import ProxyConfig
from robust.moving_clusters import cluster_around
from robust.objective import GroupRobust, group_robust_loss
from robust.proxy import Proxy, group_objective, moving_objective, train_proxy

CONFIG = ProxyConfig(network="convnet-d1-w8", num_steps=30, batch_size=40, num_clusters=2)
SIZES = {"num_classes": 2, "clusters_per_class": 2}


def train(blobs: tuple[np.ndarray, np.ndarray], config: ProxyConfig, seed: int = 0) -> Proxy:
    images = (torch.from_numpy(blobs[0]).float() - 80) / 60
    labels = torch.from_numpy(blobs[1])
    clusters = blobs[1] * 2 + np.arange(80) % 2
    return train_proxy(
        images, labels, clusters, (images, labels), num_classes=2, config=config,
        augmentation="none", seed=seed,
    )  # fmt: skip


def weights(proxy: Proxy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in proxy.network.parameters()])


def test_objective_is_the_group_robust_loss_of_the_batch() -> None:
    labels, clusters = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 2, 3])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    batch = torch.tensor([4, 0, 2, 1])
    robust = GroupRobust(min_cluster_size=1, tail_fraction=0.5)
    objective = group_objective(labels, clusters, **SIZES, robust=robust)
    expected = group_robust_loss(
        F.cross_entropy(logits, labels[batch], reduction="none"), clusters[batch],
        num_classes=2, clusters_per_class=2, tail_fraction=0.5,
    )  # fmt: skip
    torch.testing.assert_close(objective(logits, batch), expected)


def test_small_clusters_of_a_batch_do_not_make_a_worst_image_of_every_class() -> None:
    labels, clusters = torch.zeros(6).long(), torch.tensor([0, 0, 0, 0, 0, 1])
    logits = torch.zeros(6, 2)
    logits[5] = torch.tensor([-5.0, 5.0])
    values = [
        group_objective(labels, clusters, **SIZES, robust=GroupRobust(min_cluster_size=size))(
            logits, torch.arange(6)
        )
        for size in (1, 2)
    ]
    assert values[0] > values[1] + 5


def test_the_gradient_of_the_objective_reaches_every_sample_and_lowers_its_loss() -> None:
    labels, clusters = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3])
    logits = torch.zeros(4, 2, requires_grad=True)
    objective = group_objective(labels, clusters, **SIZES, robust=GroupRobust())
    objective(logits, torch.arange(4)).backward()
    assert logits.grad is not None
    own = logits.grad.gather(1, labels[:, None])
    assert (own < 0).all()  # descent raises the logit of the own class


def test_the_robust_terms_take_part_in_one_of_a_few_steps() -> None:
    labels, clusters = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3])
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    objective = group_objective(labels, clusters, **SIZES, robust=GroupRobust(every=3))
    values = [float(objective(logits, torch.arange(4))) for _ in range(4)]
    plain = float(F.cross_entropy(logits, labels))
    assert values[1] == values[2] == pytest.approx(plain)
    assert values[0] == values[3] > plain + 1


def test_a_memory_of_the_clusters_lasts_one_training() -> None:
    labels, clusters = torch.zeros(4).long(), torch.tensor([0, 0, 1, 1])
    bad_first, bad_second = torch.zeros(4, 2), torch.zeros(4, 2)
    bad_first[:2, 1], bad_second[2:, 1] = 9.0, 5.0
    robust = GroupRobust(memory=0.9, min_cluster_size=1, mean_weight=0, loss_weight=0)

    def values() -> list[float]:
        objective = group_objective(labels, clusters, **SIZES, robust=robust)
        return [float(objective(one, torch.arange(4))) for one in (bad_first, bad_second)]

    # in the second batch the first cluster is fine, but it was far worse so far
    assert values() == pytest.approx([9.0, 0.693], abs=1e-3) == values()


def test_moving_clusters_form_in_the_features_of_the_network_at_that_step() -> None:
    network = build_classifier("convnet-d1-w8", 1, 8, 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 1, 8, 8, generator=generator)
    labels = torch.arange(20) % 2
    synthetic, classes = torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 0, 1, 1])
    robust = GroupRobust(min_cluster_size=1)
    objective = moving_objective(
        network, labels, (synthetic, classes), **SIZES, robust=robust, generator=generator
    )
    batch = torch.arange(5, 20)

    def expected() -> torch.Tensor:
        ids = cluster_around(
            network.features(images[batch]), labels[batch], network.features(synthetic), classes,
            clusters_per_class=2,
        )  # fmt: skip
        losses = F.cross_entropy(network(images[batch]), labels[batch], reduction="none")
        return robust(losses, ids, **SIZES)

    first = objective(network(images[batch]), batch)
    torch.testing.assert_close(first, expected())
    first.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0
            parameter -= 0.5 * parameter.grad
    torch.testing.assert_close(objective(network(images[batch]), batch), expected())


@pytest.mark.parametrize("robust", [True, False])
def test_a_proxy_learns_what_can_be_learned(
    blobs: tuple[np.ndarray, np.ndarray], robust: bool
) -> None:
    proxy = train(blobs, replace(CONFIG, robust=robust))
    assert proxy.validation_accuracy == 1.0 and proxy.is_sound


def test_the_robust_terms_change_the_proxy_and_the_seed_fixes_it(
    blobs: tuple[np.ndarray, np.ndarray],
) -> None:
    config = replace(CONFIG, num_steps=3)
    assert torch.equal(weights(train(blobs, config)), weights(train(blobs, config)))
    assert not torch.equal(weights(train(blobs, config)), weights(train(blobs, config, seed=1)))
    plain = train(blobs, replace(config, robust=False))
    assert not torch.equal(weights(train(blobs, config)), weights(plain))


def test_a_proxy_that_learned_nothing_is_not_sound(blobs: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = blobs
    mixed = np.random.default_rng(0).permutation(labels)  # labels that say nothing
    proxy = train((np.zeros_like(images), mixed), replace(CONFIG, num_steps=2))
    assert proxy.validation_accuracy < 0.75 and not proxy.is_sound  # 1.5 x chance of two classes


def test_no_floor_asks_for_more_than_near_perfection(
    blobs: tuple[np.ndarray, np.ndarray],
) -> None:
    assert train(blobs, replace(CONFIG, accuracy_floor=50.0)).is_sound
