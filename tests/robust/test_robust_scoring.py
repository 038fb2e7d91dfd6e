"""Scores of candidates and of whole sets."""

import math

import pytest
import torch

from distillery.errors import ConfigError
from robust.config import ProxyConfig, SelectConfig
from robust.scoring import SCORE_NAMES, candidate_scores, set_score


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
    logits = torch.zeros(4, 2)
    logits[3] = torch.tensor([-2.0, 2.0])  # of class 0, and far off
    labels, clusters = torch.zeros(4).long(), torch.tensor([0, 0, 0, 1])
    log2, bad = math.log(2), math.log(1 + math.exp(4))
    expected = (3 * log2 + bad) / 4 + (log2 + bad) / 2 + bad  # mean, mean CVaR, max CVaR
    assert set_score(logits, labels, clusters, config=config) == pytest.approx(expected, rel=1e-5)


def test_small_clusters_of_the_validation_split_merge() -> None:
    config = ProxyConfig(num_clusters=2, min_cluster_size=2, tail_fraction=1.0)
    logits = torch.zeros(4, 2)
    logits[3] = torch.tensor([-2.0, 2.0])
    labels, clusters = torch.zeros(4).long(), torch.tensor([0, 0, 0, 1])
    mean = (3 * math.log(2) + math.log(1 + math.exp(4))) / 4
    assert set_score(logits, labels, clusters, config=config) == pytest.approx(3 * mean, rel=1e-5)


def test_a_better_classifier_scores_lower(generator: torch.Generator) -> None:
    labels = torch.randint(0, 3, (60,), generator=generator)
    clusters = labels * 5 + torch.randint(0, 5, (60,), generator=generator)
    noise = torch.randn(60, 3, generator=generator)
    right = torch.nn.functional.one_hot(labels, 3)
    config = ProxyConfig()
    better, worse = (
        set_score(noise + gain * right, labels, clusters, config=config) for gain in (3.0, 1.0)
    )
    assert better < worse


@pytest.mark.parametrize("tail_fraction", [0.0, 1.5])
def test_impossible_tails_are_refused(tail_fraction: float) -> None:
    for kind in (ProxyConfig, SelectConfig):
        with pytest.raises(ConfigError, match=r"tail_fraction must be in \(0, 1\]"):
            kind(tail_fraction=tail_fraction)
