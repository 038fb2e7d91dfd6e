"""Choosing a few images out of many."""

import numpy as np
import pytest
import torch

from robust.config import SelectConfig
from robust.selection import greedy_cvar, herding, k_center, k_medoids, random_choice, select


def line(*positions: float) -> torch.Tensor:
    return torch.tensor(positions)[:, None]


def test_herding_takes_the_sample_nearest_to_the_mean_and_then_balances() -> None:
    features = line(0.0, 1.0, 2.0, 6.0)  # mean 2.25
    # first 2; then the pair whose mean is nearest to 2.25: 2 and 1 (1.5) beats 2 and 6 (4)
    assert herding(features, 2).tolist() == [2, 1]
    assert sorted(herding(features, 4).tolist()) == [0, 1, 2, 3]  # none twice


def test_k_center_adds_the_farthest_sample_each_time() -> None:
    features = line(0.0, 4.0, 5.0, 9.0, 16.0)  # mean 6.8: 5 is nearest to it
    # farthest from 5 is 16; then 0 (5 away) beats 9 (4 away); then 9; then 4
    assert k_center(features, 5).tolist() == [2, 4, 0, 3, 1]


def test_k_center_covers_better_than_twice_the_best_cover(generator: torch.Generator) -> None:
    features = torch.randn(12, 2, generator=generator)
    distances = torch.cdist(features, features)
    radius = distances[:, k_center(features, 3)].amin(1).max()
    sets = torch.combinations(torch.arange(12), 3)
    best = torch.stack([distances[:, one].amin(1).max() for one in sets]).min()
    assert best <= radius <= 2 * best  # Gonzalez's bound


def test_k_center_of_duplicates_are_distinct() -> None:
    assert sorted(k_center(line(1.0, 1.0, 1.0), 3).tolist()) == [0, 1, 2]


def test_k_medoids_finds_the_middles_of_two_groups() -> None:
    features = line(0.0, 1.0, 2.0, 10.0, 11.0, 12.0)
    chosen = k_medoids(features, 2, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == [1, 4]


def test_k_medoids_of_duplicates_are_distinct() -> None:
    chosen = k_medoids(line(1.0, 1.0, 1.0), 3, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == [0, 1, 2]


def test_random_choice_repeats_and_never_takes_one_twice() -> None:
    first, second = (random_choice(10, 6, np.random.default_rng(1)) for _ in range(2))
    assert first.tolist() == second.tolist() and len(set(first.tolist())) == 6


def test_greedy_covers_the_crowd_first_and_the_outlying_cluster_next() -> None:
    reals = line(0.0, 0.1, 0.2, 5.0)
    clusters = torch.tensor([0, 0, 0, 1])
    candidates = line(0.1, 5.0, 2.5, 9.0)
    chosen = greedy_cvar(candidates, reals, clusters, 2, num_clusters=2, tail_fraction=0.5)
    assert sorted(chosen.tolist()) == [0, 1]


def test_the_cvar_term_draws_the_choice_from_the_crowd_to_the_middle_of_the_clusters() -> None:
    reals = torch.tensor([[0.0, 0.0]] * 9 + [[1.0, 0.0], [0.5, 0.9]])
    clusters = torch.tensor([0] * 9 + [1, 2])
    candidates = torch.tensor([[0.0, 0.0], [0.5, 0.3]])  # in the crowd; amid the three clusters
    settings = {"num_clusters": 3, "tail_fraction": 0.2}
    # mean distance 0.18 against 0.58; mean over clusters 0.68 against 0.59
    crowd = greedy_cvar(candidates, reals, clusters, 1, **settings, cvar_weight=0.0)
    middle = greedy_cvar(candidates, reals, clusters, 1, **settings, cvar_weight=50.0)
    assert (crowd.tolist(), middle.tolist()) == ([0], [1])


def test_more_than_there_are_is_refused() -> None:
    for choose in (herding, k_center):
        with pytest.raises(ValueError, match="cannot choose 3 of 2"):
            choose(line(0.0, 1.0), 3)
    with pytest.raises(ValueError, match="cannot choose 3 of 2"):
        k_medoids(line(0.0, 1.0), 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot choose 3 of 2"):
        greedy_cvar(
            line(0.0, 1.0), line(0.0), torch.zeros(1).long(), 3, num_clusters=1, tail_fraction=0.5
        )


POOL = line(-3.0, 0.9, 5.2, 9.4, 30.0)
REALS = line(0.0, 1.0, 2.0, 9.0, 10.0, 11.0)  # mean 5.5


def test_a_pool_is_chosen_from_for_the_real_samples() -> None:
    rng = np.random.default_rng(0)
    assert herding(POOL, 1, reals=REALS).tolist() == [2]  # the pool's own mean is 8.5
    # the middle, then 0 and 11 are worst covered, 11 first (5.8 away against 5.2)
    assert k_center(POOL, 3, reals=REALS).tolist() == [2, 3, 1]
    assert sorted(k_medoids(POOL, 2, rng, reals=REALS).tolist()) == [1, 3]


def test_real_samples_as_their_own_pool_change_nothing(generator: torch.Generator) -> None:
    features = torch.randn(30, 5, generator=generator)
    assert (herding(features, 6) == herding(features, 6, reals=features)).all()
    assert (k_center(features, 6) == k_center(features, 6, reals=features)).all()
    first, second = (
        k_medoids(features, 6, np.random.default_rng(0), reals=reals) for reals in (None, features)
    )
    assert (first == second).all()


@pytest.mark.parametrize(
    ("method", "expected"),
    [("random", [0, 1]), ("herding", [2, 3]), ("k_center", [2, 3]), ("k_medoids", [1, 3]),
     ("greedy_cvar", [2, 3])],
)  # fmt: skip
def test_a_method_is_chosen_by_its_name(method: str, expected: list[int]) -> None:
    config = SelectConfig(method=method, cvar_weight=0.0)  # type: ignore[arg-type]
    clusters = torch.tensor([0, 0, 0, 1, 1, 1])
    rng = np.random.default_rng(0)
    chosen = select(config, POOL, REALS, clusters, 2, num_clusters=2, rng=rng).tolist()
    assert (sorted(chosen) if method == "k_medoids" else chosen) == expected


def test_an_unknown_method_lists_the_choices() -> None:
    config = SelectConfig(method="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one of \['greedy_cvar', 'herding'.*got 'best'"):
        select(
            config, POOL, REALS, torch.zeros(6).long(), 2, num_clusters=1,
            rng=np.random.default_rng(0),
        )  # fmt: skip
