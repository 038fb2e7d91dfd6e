"""Matching objectives: how far apart one network sees real and synthetic images of each class.

All are sums over the classes present, so classes can be taken a few at a time and add up. Real
images are held constant. Shapes: N images, B real, S synthetic, D features, K classes, L layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.models.classifiers import Classifier
from robust.matching import group_means
from robust.matching_types import Batch, Objective

CACHE_BATCH = 64
"""Images that a CPU takes through a network at once without gradient: they stay in its cache."""
LayerDistance = Callable[[Tensor, Tensor], Tensor]
"""Gradients of one layer, real and synthetic, of equal shape -> scalar."""


def distribution_matching(
    network: Classifier, real: Batch, synthetic: Batch, num_classes: int
) -> Tensor:
    """Return the squared distance of mean features, summed over features and classes.

    Source: Zhao & Bilen (2023), Eq. 4; all classes go through the network together.
    """
    target = constant_features(network, real.images)
    features = network.features(synthetic.images)
    mean_real, real_sizes = group_means(target, real.labels, num_classes)
    mean, sizes = group_means(features, synthetic.labels, num_classes)
    both = (real_sizes > 0) & (sizes > 0)
    return torch.where(both, (mean_real - mean).square().sum(1), 0).sum()


def cross_entropy_term(
    network: Classifier, real: Batch, synthetic: Batch, num_classes: int
) -> Tensor:
    """Return the mean cross-entropy of each class's synthetic images, summed over classes.

    Source: Zhao et al. (2023), IDM: keeps the images recognisable to trained networks.
    """
    losses = F.cross_entropy(network(synthetic.images), synthetic.labels, reduction="none")
    means, sizes = group_means(losses[:, None], synthetic.labels, num_classes)
    return torch.where(sizes > 0, means[:, 0], 0).sum()


def gradient_matching(distance: LayerDistance, *, convolutions_only: bool = False) -> Objective:
    """Return the objective that compares a class's gradients of the network's weights.

    Each class has its own gradient (Zhao et al. 2021, DC, Algorithm 1: matching class by class).

    Args:
        distance: `cosine_rows` (DC, DSA), `absolute` or `squared` (IDC).
        convolutions_only: Leave biases, norms and linear layers out (the released code of IDC).
    """

    def objective(network: Classifier, real: Batch, synthetic: Batch, num_classes: int) -> Tensor:
        weights = [
            weight
            for weight in network.parameters()
            if weight.requires_grad and (weight.ndim == 4 or not convolutions_only)
        ]
        total = synthetic.images.new_zeros(())
        for label in synthetic.classes():
            own_real, own = real.of_class(label), synthetic.of_class(label)
            if not len(own_real):
                continue
            target = _gradients(network, own_real, label, weights, keep_graph=False)
            gradients = _gradients(network, own, label, weights, keep_graph=True)
            for wanted, got in zip(target, gradients, strict=True):
                total = total + distance(wanted.detach(), got)
        return total

    return objective


def cosine_rows(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the sum over output units of one minus the cosine; biases and norms do not count.

    Source: Zhao et al. (2021), Eq. 10 (DC, DSA).
    """
    if real.ndim < 2:
        return synthetic.new_zeros(())
    return (1 - F.cosine_similarity(real.flatten(1), synthetic.flatten(1), dim=1, eps=1e-6)).sum()


def absolute(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the sum of absolute differences (IDC, `l1`)."""
    return (real - synthetic).abs().sum()


def squared(real: Tensor, synthetic: Tensor) -> Tensor:
    """Return the sum of squared differences (IDC, `mse`)."""
    return (real - synthetic).square().sum()


def constant_features(network: Classifier, images: Tensor) -> Tensor:
    """Return features (N, D) without gradient."""
    with torch.no_grad():
        return network.features(images)


@contextmanager
def shared_feature_maps(network: Classifier, *, only: Tensor | None = None) -> Iterator[None]:
    """Let all terms of a step share the network's pass over the same images.

    Passes without gradient go a few images at a time on a CPU, which keeps them in its cache.

    Args:
        network: Whose passes are shared.
        only: The one batch whose pass without gradient is kept; None: each.
    """
    plain = network.feature_map
    moving: list[tuple[Tensor, Tensor]] = []
    constant: list[tuple[Tensor, Tensor]] = []

    def feature_map(images: Tensor) -> Tensor:
        kept = moving if torch.is_grad_enabled() else constant
        for seen, result in kept:
            if seen is images:
                return result
        if kept is moving or images.device.type != "cpu":
            result = plain(images)
        else:
            result = torch.cat([plain(part) for part in images.split(CACHE_BATCH)])
        if kept is moving or only is None or images is only:
            kept.append((images, result))
        return result

    network.feature_map = feature_map  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del network.feature_map  # the class's own is found again


def _gradients(
    network: Classifier, images: Tensor, label: int, weights: Sequence[Tensor], *, keep_graph: bool
) -> tuple[Tensor, ...]:
    """Return the gradients of the mean cross-entropy of one class's images."""
    targets = torch.full((len(images),), label, dtype=torch.int64, device=images.device)
    loss = F.cross_entropy(network(images), targets)
    return torch.autograd.grad(loss, weights, create_graph=keep_graph)
