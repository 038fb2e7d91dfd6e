"""Choosing a few images of a class out of many, real or generated.

Each function takes features of one class and returns indices in the order of choice. Shapes:
N candidates, R real samples, D features, M the number of images to choose.
"""

import numpy as np
import torch
from torch import Tensor

from robust.cvar import clustered_cvar


def random_choice(num_candidates: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` distinct indices, drawn uniformly, int64 (M,)."""
    return rng.permutation(num_candidates)[:count].astype(np.int64)


def herding(features: Tensor, count: int) -> np.ndarray:
    """Return indices whose running mean follows the class mean, int64 (M,).

    Source: Welling (2009), "Herding dynamical weights to learn".
    """
    target = features.mean(0)
    total = torch.zeros_like(target)
    free = torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    for number in range(1, count + 1):
        distance = ((total + features) / number - target).square().sum(1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return np.array(chosen, np.int64)


def k_center(features: Tensor, count: int) -> np.ndarray:
    """Return samples of which none is far from all: the farthest one is added next, int64 (M,).

    The first is the sample nearest to the class mean, so that no draw is needed. Later ones are
    outliers by design, which is why it falls behind herding at few images per class.
    Source: Gonzalez (1985); Sener & Savarese (2018), "Active learning for convolutional neural
    networks: a core-set approach", Algorithm 1 (k-center-greedy).

    Raises:
        ValueError: If fewer than `count` candidates are there.
    """
    _enough(count, len(features))
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    nearest = torch.cdist(features, features[chosen])[:, 0]  # (N,)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1  # duplicates of a chosen sample are at distance 0, free ones too
        chosen.append(int(nearest.argmax()))
        distance = torch.cdist(features, features[chosen[-1:]])[:, 0]
        nearest = torch.minimum(nearest, distance)
    return np.array(chosen, np.int64)


def k_medoids(
    features: Tensor, count: int, rng: np.random.Generator, *, rounds: int = 20
) -> np.ndarray:
    """Return the medoids of `count` clusters, by alternating assignment and update, int64 (M,).

    Starts with distances that grow (k-medoids++). Source: Park & Jun (2009), "A simple and fast
    algorithm for K-medoids clustering".
    """
    distances = torch.cdist(features, features)  # (N, N)
    medoids = [int(distances.square().sum(1).argmin())]
    while len(medoids) < count:
        weight = distances[:, medoids].amin(1).square().double().numpy()
        weight[medoids] = 0
        if weight.sum() == 0:  # only duplicates are left: take the next free one
            weight = np.ones(len(features))
            weight[medoids] = 0
        medoids.append(int(rng.choice(len(features), p=weight / weight.sum())))
    for _ in range(rounds):
        assignment = distances[:, medoids].argmin(1)
        updated = []
        for number, medoid in enumerate(medoids):
            members = torch.nonzero(assignment == number)[:, 0]
            if len(members) == 0:  # a duplicate of another medoid
                updated.append(medoid)
                continue
            cost = distances[members][:, members].sum(0)
            updated.append(int(members[int(cost.argmin())]))
        if updated == medoids:
            break
        medoids = updated
    return np.array(medoids, np.int64)


def greedy_cvar(
    candidates: Tensor,
    reals: Tensor,
    cluster_ids: Tensor,
    count: int,
    *,
    num_clusters: int,
    tail_fraction: float,
    cvar_weight: float = 1.0,
) -> np.ndarray:
    """Return the greedy set that covers the real samples, and their worst clusters, int64 (M,).

    Each choice minimises mean + `cvar_weight` x mean over clusters of the CVaR of the real
    samples' distance to their nearest chosen candidate.

    Args:
        candidates: L2-normalised features, (N, D).
        reals: L2-normalised features of real samples of the same class, (R, D).
        cluster_ids: Cluster of each real sample, (R,) in [0, num_clusters).
        count: M <= N.
        num_clusters: Clusters of this class.
        tail_fraction: Share of the worst-covered samples of each cluster.
        cvar_weight: Weight of the clustered CVaR.

    Raises:
        ValueError: If fewer than `count` candidates are there.
    """
    _enough(count, len(candidates))
    distances = torch.cdist(reals, candidates)  # (R, N)
    nearest = torch.full((len(reals), 1), torch.inf)
    chosen: list[int] = []
    for _ in range(count):
        with_each = torch.minimum(nearest, distances)  # (R, N)
        values, sizes = clustered_cvar(
            with_each, cluster_ids, num_clusters=num_clusters, tail_fraction=tail_fraction
        )
        cost = with_each.mean(0) + cvar_weight * values.sum(0) / (sizes > 0).sum()
        cost[chosen] = torch.inf
        chosen.append(int(cost.argmin()))
        nearest = torch.minimum(nearest, distances[:, chosen[-1:]])
    return np.array(chosen, np.int64)


def _enough(count: int, num_candidates: int) -> None:
    """Raise ValueError if more are asked for than there are."""
    if count > num_candidates:
        raise ValueError(f"cannot choose {count} of {num_candidates} candidates")
