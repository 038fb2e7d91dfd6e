"""Scores of candidates and of whole sets."""

import math

import pytest
import torch

from distillery.errors import ConfigError
from robust.config import ProxyConfig, SelectConfig
from robust.scoring import SCORE_NAMES, Gain, candidate_scores, score_gain, set_score


def test_loss_and_margin_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)], [2.0, -1.0]])
    scores = candidate_scores(logits, torch.tensor([1, 0, 0]))
    assert SCORE_NAMES == ("proxy_loss", "margin")
    assert scores.dtype == torch.float32
    expected = [
        [math.log(4 / 3), math.log(3)],
        [math.log(4), -math.log(3)],
        [math.log(1 + math.exp(-3)), 3.0],
    ]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_the_margin_is_to_the_best_other_class() -> None:
    scores = candidate_scores(torch.tensor([[1.0, 5.0, 4.0]]), torch.tensor([1]))
    assert scores[0, 1] == 1.0


def test_a_negative_margin_is_a_wrong_label(generator: torch.Generator) -> None:
    logits = torch.randn(50, 4, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    assert torch.equal(candidate_scores(logits, labels)[:, 1] < 0, logits.argmax(1) != labels)


def test_a_set_scores_by_its_worst_clusters() -> None:
    config = ProxyConfig(num_clusters=2, min_cluster_size=1, tail_fraction=1.0)
    losses, clusters = torch.tensor([1.0, 1.0, 1.0, 4.0]), torch.tensor([0, 0, 0, 1])
    expected = 7 / 4 + 5 / 2 + 4  # mean, mean CVaR, max CVaR
    score = set_score(losses, clusters, num_classes=1, config=config)
    assert score == pytest.approx(expected, rel=1e-6)


def test_small_clusters_of_the_validation_split_merge() -> None:
    config = ProxyConfig(num_clusters=2, min_cluster_size=2, tail_fraction=1.0)
    losses, clusters = torch.tensor([1.0, 1.0, 1.0, 4.0]), torch.tensor([0, 0, 0, 1])
    score = set_score(losses, clusters, num_classes=1, config=config)
    assert score == pytest.approx(3 * 7 / 4, rel=1e-6)


def test_a_better_classifier_scores_lower(generator: torch.Generator) -> None:
    labels = torch.randint(0, 3, (60,), generator=generator)
    clusters = labels * 5 + torch.randint(0, 5, (60,), generator=generator)
    noise = torch.randn(60, 3, generator=generator)
    right = torch.nn.functional.one_hot(labels, 3)
    config = ProxyConfig()
    losses = (
        torch.nn.functional.cross_entropy(noise + gain * right, labels, reduction="none")
        for gain in (3.0, 1.0)
    )
    better, worse = (set_score(own, clusters, num_classes=3, config=config) for own in losses)
    assert better < worse


PLAIN = ProxyConfig(num_clusters=1, min_cluster_size=1, tail_fraction=1.0)
"""With one cluster a class and no tail the score is three times the mean loss."""


def gain_of(one: torch.Tensor, other: torch.Tensor, seed: int = 0) -> Gain:
    labels = torch.arange(one.shape[1]) % 2
    return score_gain(one, other, labels, labels, num_classes=2, config=PLAIN, seed=seed)


def test_the_error_of_a_gain_is_that_of_a_mean_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, 400, generator=generator)
    other = torch.rand(1, 400, generator=generator) - 0.1
    gain = gain_of(one, other)
    assert gain.value == pytest.approx(3 * float((one - other).mean()), rel=1e-4)
    by_formula = 3 * float((one - other).std()) / 400**0.5
    assert gain.error == pytest.approx(by_formula, rel=0.15)
    assert gain_of(one, other) == gain  # the same seed
    assert gain_of(one, other, seed=1).error != gain.error


def test_losses_that_rise_and_fall_together_leave_no_error() -> None:
    one = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    gain = gain_of(one, one - 0.25)
    assert gain.value == pytest.approx(0.75, abs=1e-5)
    assert gain.error < 1e-5
    assert gain.is_beyond_chance()


def test_a_gain_within_chance_and_one_that_is_no_number_do_not_count() -> None:
    assert not Gain(0.1, 0.06).is_beyond_chance()
    assert Gain(0.13, 0.06).is_beyond_chance()
    assert not Gain(-1.0, 0.1).is_beyond_chance()
    assert not Gain(0.0, 0.0).is_beyond_chance()
    assert not Gain(math.nan, 0.1).is_beyond_chance()
    assert not Gain(0.1, math.nan).is_beyond_chance()


@pytest.mark.parametrize("tail_fraction", [0.0, 1.5])
def test_impossible_tails_are_refused(tail_fraction: float) -> None:
    for kind in (ProxyConfig, SelectConfig):
        with pytest.raises(ConfigError, match=r"tail_fraction must be in \(0, 1\]"):
            kind(tail_fraction=tail_fraction)
