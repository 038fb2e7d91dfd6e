"""CVaR: the mean of the worst part of the losses."""

import pytest
import torch
from torch import Tensor

from robust.cvar import clustered_cvar, cvar

LOSSES = torch.arange(1.0, 11.0)


def rockafellar_uryasev(losses: Tensor, tail_fraction: float) -> Tensor:
    """The second formula: min over t of t + mean(max(L - t, 0)) / a; the minimum is at a loss."""
    values = [t + (losses - t).clamp(min=0).mean() / tail_fraction for t in losses]
    return torch.stack(values).min()


def test_worst_parts_of_one_to_ten() -> None:
    assert cvar(LOSSES, tail_fraction=0.2) == pytest.approx(9.5)  # 10 and 9
    assert cvar(LOSSES, tail_fraction=0.8) == pytest.approx(6.5)  # 3 to 10
    assert cvar(LOSSES, tail_fraction=1.0) == pytest.approx(5.5)  # the mean
    assert cvar(LOSSES, tail_fraction=0.25) == pytest.approx((10 + 9 + 0.5 * 8) / 2.5)


def test_a_worse_worst_loss_counts() -> None:
    worse = LOSSES.clone()
    worse[9] = 1_000_000
    assert cvar(worse, tail_fraction=0.8) > cvar(LOSSES, tail_fraction=0.8) + 100_000


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("tail_fraction", [0.01, 0.2, 0.37, 0.8, 1.0])
def test_agrees_with_the_minimum_form(
    dtype: torch.dtype, tolerance: float, tail_fraction: float, generator: torch.Generator
) -> None:
    for size in (1, 2, 7, 64):
        losses = torch.randn(size, generator=generator, dtype=dtype).exp()
        expected = rockafellar_uryasev(losses, tail_fraction)
        torch.testing.assert_close(
            cvar(losses, tail_fraction=tail_fraction), expected, rtol=tolerance, atol=0
        )


@pytest.mark.parametrize("tail_fraction", [0.1, 0.37, 1.0])
def test_a_cluster_has_the_cvar_of_its_samples_to_the_last_digit_of_its_type(
    tail_fraction: float, generator: torch.Generator
) -> None:
    losses = torch.rand(50, generator=generator, dtype=torch.float64)
    ids = torch.arange(50) % 3
    found, _ = clustered_cvar(losses, ids, num_clusters=3, tail_fraction=tail_fraction)
    alone = [cvar(losses[ids == k], tail_fraction=tail_fraction) for k in range(3)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-13, atol=0)


def test_gradient_reaches_the_tail_only_and_pushes_it_down() -> None:
    losses = LOSSES.clone().requires_grad_()
    cvar(losses, tail_fraction=0.25).backward()
    expected = torch.zeros(10)
    expected[[9, 8, 7]] = torch.tensor([0.4, 0.4, 0.2])
    torch.testing.assert_close(losses.grad, expected)


@pytest.mark.parametrize("tail_fraction", [0.0, -0.1, 1.01])
def test_impossible_tails_are_refused(tail_fraction: float) -> None:
    with pytest.raises(ValueError, match=r"tail_fraction must be in \(0, 1\]"):
        cvar(LOSSES, tail_fraction=tail_fraction)
    with pytest.raises(ValueError, match="tail_fraction"):
        clustered_cvar(LOSSES, torch.zeros(10).long(), num_clusters=1, tail_fraction=tail_fraction)


def test_losses_must_be_a_vector_with_something_in_it() -> None:
    for losses in (torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="shape"):
            cvar(losses, tail_fraction=0.5)


def test_clusters_at_once_equal_clusters_one_by_one(generator: torch.Generator) -> None:
    losses = torch.randn(50, generator=generator).exp()
    ids = torch.randint(0, 6, (50,), generator=generator)
    ids[ids == 4] = 5  # cluster 4 stays empty
    values, sizes = clustered_cvar(losses, ids, num_clusters=6, tail_fraction=0.3)
    assert sizes.tolist() == [int((ids == c).sum()) for c in range(6)]
    for cluster in range(6):
        if cluster == 4:
            assert values[cluster] == 0
            continue
        torch.testing.assert_close(values[cluster], cvar(losses[ids == cluster], tail_fraction=0.3))


def test_alternatives_in_columns_are_independent(generator: torch.Generator) -> None:
    losses = torch.rand(20, 3, generator=generator)
    ids = torch.randint(0, 2, (20,), generator=generator)
    values, _ = clustered_cvar(losses, ids, num_clusters=2, tail_fraction=0.5)
    for column in range(3):
        alone, _ = clustered_cvar(losses[:, column], ids, num_clusters=2, tail_fraction=0.5)
        torch.testing.assert_close(values[:, column], alone)


def test_clustered_gradient_stays_in_the_tail_of_its_cluster() -> None:
    losses = torch.tensor([1.0, 5.0, 2.0, 4.0], requires_grad=True)
    values, _ = clustered_cvar(
        losses, torch.tensor([0, 0, 1, 1]), num_clusters=2, tail_fraction=0.5
    )
    values[0].backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_the_lower_tail_averages_the_smallest_losses() -> None:
    assert cvar(LOSSES, tail_fraction=0.2, tail="lower") == pytest.approx(1.5)  # 1 and 2
    assert cvar(LOSSES, tail_fraction=0.25, tail="lower") == pytest.approx((1 + 2 + 1.5) / 2.5)
    assert cvar(LOSSES, tail_fraction=1.0, tail="lower") == pytest.approx(5.5)  # the mean
    # the mean lies between the tails, in their proportion
    both = 0.2 * cvar(LOSSES, tail_fraction=0.2) + 0.8 * cvar(
        LOSSES, tail_fraction=0.8, tail="lower"
    )
    assert both == pytest.approx(5.5)


def test_clustered_lower_tails_equal_those_one_by_one(generator: torch.Generator) -> None:
    losses = torch.randn(30, generator=generator).exp()
    ids = torch.randint(0, 3, (30,), generator=generator)
    values, _ = clustered_cvar(losses, ids, num_clusters=3, tail_fraction=0.3, tail="lower")
    for cluster in range(3):
        alone = cvar(losses[ids == cluster], tail_fraction=0.3, tail="lower")
        torch.testing.assert_close(values[cluster], alone)


def test_an_unknown_tail_is_refused() -> None:
    with pytest.raises(ValueError, match="tail must be upper or lower, got 'left'"):
        cvar(LOSSES, tail_fraction=0.5, tail="left")  # type: ignore[arg-type]
