"""Choosing a few images of a class out of many, real or generated.

Each function takes features of one class and returns indices in the order of choice. Shapes:
N candidates, R real samples, D features, M the number of images to choose. Candidates may be the
real samples themselves, or a generated pool that has to stand for them.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from robust.config import SelectConfig
from robust.cvar import clustered_cvar


def random_choice(num_candidates: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` distinct indices, drawn uniformly, int64 (M,)."""
    return rng.permutation(num_candidates)[:count].astype(np.int64)


def herding(features: Tensor, count: int, *, reals: Tensor | None = None) -> np.ndarray:
    """Return indices whose running mean follows the class mean, int64 (M,).

    Source: Welling (2009), "Herding dynamical weights to learn".

    Args:
        features: Of the candidates, (N, D).
        count: M <= N.
        reals: Features of the real samples whose mean counts, (R, D); None: the candidates.
    """
    _enough(count, len(features))
    target = (features if reals is None else reals).mean(0)
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


def k_center(features: Tensor, count: int, *, reals: Tensor | None = None) -> np.ndarray:
    """Return candidates of which one is near to every real sample, int64 (M,).

    The first is the candidate nearest to the class mean, so that no draw is needed; then the real
    sample that is covered worst gets its nearest free candidate. Later ones stand for outliers by
    design, which is why it falls behind herding at few images per class.
    Source: Gonzalez (1985); Sener & Savarese (2018), "Active learning for convolutional neural
    networks: a core-set approach", Algorithm 1 (k-center-greedy).

    Args:
        features: Of the candidates, (N, D).
        count: M <= N.
        reals: Features of the real samples to cover, (R, D); None: the candidates.
    """
    _enough(count, len(features))
    covered = features if reals is None else reals
    free = torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    target, nearest = covered.mean(0), torch.full((len(covered),), torch.inf)
    for _ in range(count):
        distance = (features - target).square().sum(1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        nearest = torch.minimum(nearest, (covered - features[best]).square().sum(1))  # (R,)
        target = covered[int(nearest.argmax())]
    return np.array(chosen, np.int64)


def k_medoids(
    features: Tensor,
    count: int,
    rng: np.random.Generator,
    *,
    rounds: int = 20,
    reals: Tensor | None = None,
) -> np.ndarray:
    """Return the medoids of `count` clusters, by alternating assignment and update, int64 (M,).

    Starts with distances that grow (k-medoids++). Source: Park & Jun (2009), "A simple and fast
    algorithm for K-medoids clustering".

    Args:
        features: Of the candidates, (N, D).
        count: M <= N.
        rng: Of the start.
        rounds: Most updates.
        reals: Features of the real samples that form the clusters, (R, D); None: the candidates.
    """
    _enough(count, len(features))
    between = torch.cdist(features, features)  # (N, N)
    distances = between if reals is None else torch.cdist(reals, features)  # (R, N)
    medoids = [int(distances.square().sum(0).argmin())]
    while len(medoids) < count:
        weight = distances[:, medoids].amin(1).square().double().numpy()  # (R,)
        if reals is None:
            weight[medoids] = 0  # rounding may leave a little
        if weight.sum() == 0:  # only duplicates are left
            weight = np.ones(len(weight))
        sample = int(rng.choice(len(weight), p=weight / weight.sum()))
        taken = torch.zeros(len(features), dtype=torch.bool)
        taken[medoids] = True
        medoids.append(int(distances[sample].masked_fill(taken, torch.inf).argmin()))
    for _ in range(rounds):
        samples_of = distances[:, medoids].argmin(1)  # (R,)
        candidates_of = between[:, medoids].argmin(1)  # (N,)
        updated = []
        for number, medoid in enumerate(medoids):
            members = torch.nonzero(samples_of == number)[:, 0]
            rivals = torch.nonzero(candidates_of == number)[:, 0]
            if len(members) == 0 or len(rivals) == 0:  # a duplicate of another medoid
                updated.append(medoid)
                continue
            cost = distances[members][:, rivals].sum(0)
            updated.append(int(rivals[int(cost.argmin())]))
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


def select(
    config: SelectConfig,
    candidates: Tensor,
    reals: Tensor,
    cluster_ids: Tensor,
    count: int,
    *,
    num_clusters: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the choice of a configured method among the candidates of one class, int64 (M,).

    Args:
        config: Method and its numbers; `random` takes the first, which are in random order.
        candidates: Features of length one, (N, D).
        reals: The same of real samples of the class, (R, D).
        cluster_ids: Cluster of each real sample, (R,) in [0, num_clusters).
        count: M <= N.
        num_clusters: Clusters of this class.
        rng: Of k-medoids' start.

    Raises:
        ValueError: If the method is unknown, or there are too few candidates.
    """
    choices: dict[str, Callable[[], np.ndarray]] = {
        "greedy_cvar": lambda: greedy_cvar(
            candidates, reals, cluster_ids, count, num_clusters=num_clusters,
            tail_fraction=config.tail_fraction, cvar_weight=config.cvar_weight,
        ),
        "random": lambda: np.arange(count),
        "herding": lambda: herding(candidates, count, reals=reals),
        "k_center": lambda: k_center(candidates, count, reals=reals),
        "k_medoids": lambda: k_medoids(candidates, count, rng, reals=reals),
    }  # fmt: skip
    if config.method not in choices:
        raise ValueError(f"select.method must be one of {sorted(choices)}, got {config.method!r}")
    _enough(count, len(candidates))
    return choices[config.method]()


def _enough(count: int, num_candidates: int) -> None:
    """Raise ValueError if more are asked for than there are."""
    if count > num_candidates:
        raise ValueError(f"cannot choose {count} of {num_candidates} candidates")
