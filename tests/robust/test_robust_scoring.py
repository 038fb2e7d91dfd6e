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


def test_the_samples_part_of_an_error_is_that_of_a_mean_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, 400, generator=generator).repeat(2, 1)  # equal students: no part of theirs
    other = torch.rand(1, 400, generator=generator).repeat(2, 1) - 0.1
    gain = gain_of(one, other)
    assert gain.value == pytest.approx(3 * float((one - other).mean()), rel=1e-4)
    assert gain.freedom == math.inf
    by_formula = 3 * float((one[0] - other[0]).std()) / 400**0.5
    assert gain.error == pytest.approx(by_formula, rel=0.2)
    assert gain_of(one, other) == gain  # the same seed
    assert gain_of(one, other, seed=1).error != gain.error


def test_the_students_part_of_an_error_by_hand() -> None:
    one = torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 8)  # scores 3, 6, 9: variance 9
    other = torch.tensor([[1.0], [1.0], [1.0]]).expand(3, 8)
    gain = gain_of(one, other)  # all samples alike: no part of theirs
    assert gain.value == pytest.approx(3.0)
    assert gain.error == pytest.approx((9 / 3) ** 0.5)
    assert gain.freedom == pytest.approx(2.0)  # of one set alone, with three students
    assert not gain.is_beyond_chance()  # 1.73 standard errors; t has 4.30


@pytest.mark.parametrize(("students", "samples"), [(1, 40), (4, 2)])
def test_one_student_or_one_sample_of_a_class_tell_nothing_of_chance(
    students: int, samples: int
) -> None:
    one = torch.rand(students, samples, generator=torch.Generator().manual_seed(0))
    gain = gain_of(one + 10, one)
    assert gain.value == pytest.approx(30.0, rel=1e-4)
    assert math.isnan(gain.error) and not gain.is_beyond_chance()


@pytest.mark.parametrize("samples", [4, 60])
def test_chance_alone_seldom_gives_a_gain(samples: int) -> None:
    """Both sets alike; the promise is 1 in 40 above, and so much noise of students is the worst."""
    generator = torch.Generator().manual_seed(samples)

    def losses() -> torch.Tensor:
        student = torch.randn(4, 1, generator=generator)
        return 0.5 * student + torch.randn(4, samples, generator=generator)

    found = sum(gain_of(losses(), losses(), seed=n).is_beyond_chance() for n in range(60))
    assert found <= 6  # 1.5 expected; 7 or more in one of a thousand


def test_a_gain_that_is_no_number_does_not_count() -> None:
    assert not Gain(0.1, 0.06).is_beyond_chance()
    assert Gain(0.13, 0.06).is_beyond_chance()
    assert not Gain(0.13, 0.06, freedom=3.0).is_beyond_chance()  # beyond 3.18 errors only
    assert not Gain(-1.0, 0.1).is_beyond_chance()
    assert not Gain(0.0, 0.0).is_beyond_chance()
    assert not Gain(math.nan, 0.1).is_beyond_chance()
    assert not Gain(0.1, math.nan).is_beyond_chance()
    assert not Gain(0.1, 0.01, freedom=math.nan).is_beyond_chance()


@pytest.mark.parametrize("tail_fraction", [0.0, 1.5])
def test_impossible_tails_are_refused(tail_fraction: float) -> None:
    for kind in (ProxyConfig, SelectConfig):
        with pytest.raises(ConfigError, match=r"tail_fraction must be in \(0, 1\]"):
            kind(tail_fraction=tail_fraction)
