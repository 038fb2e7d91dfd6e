"""Two constraints beside any matching objective: class centralisation and covariance matching.

Source: Deng et al. (2024), "Exploiting Inter-sample and Inter-feature Relations in Dataset
Distillation" (IID), Eq. 3-7, and its published code, which differs from the paper as noted below.
Shapes: N samples, D features, K classes, n samples of a class, C' x H' x W' the last feature map.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.models.classifiers import Classifier
from robust.constraint_weights import ConstraintWeights
from robust.matching import group_means
from robust.matching_types import Batch, Constraint, WeightedConstraint

Form = Literal["squared", "exp"]
LARGEST_ARGUMENT = 5.0
"""Beyond it exp goes on as a straight line: no overflow, and a far sample is still pulled in."""


def class_centralisation(
    network: Classifier | Callable[[], Classifier],
    *,
    form: Form = "squared",
    floor: float = 0.0,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> Constraint:
    """Return the constraint that pulls synthetic samples to the mean of their class.

    It looks through `network`, a ResNet-18 trained on the real data, not through the network that
    matches. Distances are squared; where a scale is needed it is d_real, the real class's mean
    squared distance to its own mean in the same network.

    - `squared` (the code): sum of max(0, d - floor x d_real).
    - `exp` (Eq. 3): sum of max(0, exp(alpha x d / d_real) - beta). The paper gives no alpha and no
      scale, and a raw squared distance overflows exp; as exp is never below 1, beta up to 1 has no
      effect at all.

    Args:
        network: A trained network, or a function that draws one for each step.
        form: Which of the two.
        floor: Share of the real spread that the samples may keep; only with `squared`.
        alpha: Scale of the argument, above 0.
        beta: Threshold; above 1 it lets samples rest where exp(alpha x d / d_real) < beta.

    Raises:
        ValueError: For a number out of range; by the constraint, for a class with one sample.
    """
    if form not in ("squared", "exp"):
        raise ValueError(f"form must be squared or exp, got {form!r}")
    if floor < 0 or alpha <= 0 or beta < 0:
        raise ValueError(
            "centralisation needs floor >= 0, alpha > 0 and beta >= 0, "
            f"got {floor}, {alpha} and {beta}"
        )

    def constraint(_: Classifier, real: Batch, synthetic: Batch, num_classes: int) -> Tensor:
        look = network if isinstance(network, Classifier) else network()
        features = look.features(synthetic.images)
        _need_two(synthetic.labels, num_classes, "class centralisation")
        distances = squared_spread(features, synthetic.labels, num_classes)  # (N,)
        if form == "squared" and floor == 0:
            return distances.sum()
        with torch.no_grad():
            spread = squared_spread(look.features(real.images), real.labels, num_classes)
            scale, _sizes = group_means(spread[:, None], real.labels, num_classes)  # (K, 1)
        scale = scale[synthetic.labels, 0]  # (N,)
        known = scale > 0  # a class without two different real samples has no scale
        if form == "squared":
            excess = distances - floor * scale
        else:
            argument = alpha * distances / torch.where(known, scale, 1)
            excess = _exp_then_line(argument) - beta
        return torch.where(known, excess.clamp(min=0), 0).sum()

    return constraint


def squared_spread(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the squared distance of each sample (N, D) to the mean of its class, (N,).

    The mean is part of the graph, as in Eq. 4: the gradient moves the samples towards each other.
    """
    means, _ = group_means(features, labels, num_classes)
    return (features - means[labels]).square().sum(1)


def _exp_then_line(x: Tensor) -> Tensor:
    """Return exp(x) up to LARGEST_ARGUMENT and its tangent from there on."""
    inside = x.clamp(max=LARGEST_ARGUMENT)
    return inside.exp() * (1 + x - inside)


def covariance_matching(
    network: Classifier, real: Batch, synthetic: Batch, num_classes: int
) -> Tensor:
    """Return the squared Frobenius distance of the classes' feature covariances, summed.

    The features are the local descriptors of the last feature map, C' numbers at each of its
    H' x W' places. The real side is held constant. Source: Eq. 5.

    The cost grows with the classes of the batch, not with K; a class without real samples does not
    count.

    Raises:
        ValueError: If a class has one synthetic sample: its covariance is zero whatever it shows.
    """
    _need_two(synthetic.labels, num_classes, "covariance matching")
    present = synthetic.labels.unique()
    present = present[torch.isin(present, real.labels)]
    with torch.no_grad():
        target = _covariances_of(network, real, present)
    return (_covariances_of(network, synthetic, present) - target).square().sum()


def _covariances_of(network: Classifier, batch: Batch, classes: Tensor) -> Tensor:
    """Return the covariances of these sorted classes, (len(classes), C', C')."""
    mine = torch.isin(batch.labels, classes)
    # The batch itself where all of it counts: terms of a step share the pass over one tensor
    images = batch.images if bool(mine.all()) else batch.images[mine]
    rows = torch.searchsorted(classes, batch.labels[mine])
    return class_covariances(network.feature_map(images), rows, len(classes))


def class_covariances(maps: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the covariance of the local descriptors of each class, (K, C', C').

    Sigma = mean over samples of (F - mean F)(F - mean F)^T, where F is (C', H' W') and the mean is
    taken place by place; not divided by H' W'. Zero for an absent class. Source: Eq. 6-7.

    Args:
        maps: Feature maps, (N, C', H', W').
        labels: (N,) in [0, num_classes).
        num_classes: K.
    """
    descriptors = maps.flatten(2)  # (N, C', P)
    channels, places = descriptors.shape[1:]
    means, sizes = group_means(descriptors.flatten(1), labels, num_classes)
    # Classes side by side, short ones filled with zeros, so that one product serves all of them
    order = labels.argsort(stable=True)
    rows = labels[order]
    position = torch.arange(len(order), device=labels.device) - (sizes.cumsum(0) - sizes)[rows]
    centred = (descriptors.flatten(1) - means[labels])[order]
    blocks = centred.new_zeros(num_classes, int(sizes.max()), channels * places)
    blocks = blocks.index_put((rows, position), centred)
    flat = blocks.reshape(num_classes, -1, channels, places).transpose(1, 2).flatten(2)
    return flat @ flat.transpose(1, 2) / sizes.clamp(min=1)[:, None, None]


def weighted_constraints(
    weights: ConstraintWeights,
    network: Classifier | Callable[[], Classifier] | None,
    *,
    form: Form = "squared",
    floor: float = 0.0,
    beta: float = 0.0,
) -> tuple[WeightedConstraint, ...]:
    """Return both constraints; one of weight zero is left out.

    Args:
        weights: See `published_weights`.
        network: A trained ResNet-18 for centralisation, or a function that draws one; None only
            where centralisation has no weight.
        form: Of centralisation, like `floor` and `beta`: see `class_centralisation`.
        floor: Only with `squared`.
        beta: Only with `exp`.

    Raises:
        ConfigError: If centralisation has no network.
    """
    terms = [WeightedConstraint("covariance", weights.covariance, covariance_matching)]
    if network is not None:
        term = class_centralisation(network, form=form, floor=floor, beta=beta)
        terms.insert(0, WeightedConstraint("centralisation", weights.centralisation, term))
    elif weights.centralisation:
        raise ConfigError("class centralisation needs a network trained on the real data")
    return tuple(one for one in terms if one.weight)


def _need_two(labels: Tensor, num_classes: int, what: str) -> None:
    """Raise ValueError if a class that is present has a single sample."""
    sizes = torch.bincount(labels, minlength=num_classes)
    if bool((sizes == 1).any()):
        label = int((sizes == 1).nonzero()[0])
        raise ValueError(
            f"{what} needs two or more synthetic samples of each class, class {label} has one: use "
            "2 or more images per class, or an expansion that makes several samples of an image"
        )
