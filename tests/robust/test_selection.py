"""Choosing a few images out of many."""

import numpy as np
import pytest
import torch

from robust.selection import greedy_cvar, herding, k_center, k_medoids, random_choice


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
    with pytest.raises(ValueError, match="cannot choose 3 of 2"):
        k_center(line(0.0, 1.0), 3)
    with pytest.raises(ValueError, match="cannot choose 3 of 2"):
        greedy_cvar(
            line(0.0, 1.0), line(0.0), torch.zeros(1).long(), 3, num_clusters=1, tail_fraction=0.5
        )
