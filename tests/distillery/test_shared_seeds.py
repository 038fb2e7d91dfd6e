"""Seeds: a draw depends on its own path alone."""

import numpy as np
import pytest
import torch

from distillery.seeds import derive_seed, numpy_rng, torch_rng


def test_a_seed_never_changes() -> None:
    # Stored bundles name their noise by seed: these values are part of the format
    assert derive_seed(0, "noise", 3, 7) == 848227240925828191
    assert derive_seed(0) == 3456079177858693020


@pytest.mark.parametrize(
    "other", [(1, "noise", 3, 7), (0, "nois", 3, 7), (0, "noise", 7, 3), (0, "noise", "3", 7),
              (0, "noise", 37), (0, "noise", 3, 7, 0)],
)  # fmt: skip
def test_every_part_and_its_place_counts(other: tuple) -> None:
    assert derive_seed(*other) != derive_seed(0, "noise", 3, 7)


def test_parts_cannot_run_into_each_other() -> None:
    assert derive_seed(0, "a\x1f'b'") != derive_seed(0, "a", "b")
    assert derive_seed(0, "a'\x1f'b") != derive_seed(0, "a", "b")


def test_numbers_of_numpy_count_as_the_numbers_they_are() -> None:
    assert derive_seed(0, "noise", np.int64(3)) == derive_seed(0, "noise", 3)
    assert derive_seed(np.int32(5), "x") == derive_seed(5, "x")


def test_seeds_fit_where_they_are_stored() -> None:
    seeds = [derive_seed(root, "x", i) for root in (-1, 0, 2**70) for i in range(50)]
    assert all(0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == 150


def test_generators_repeat_and_leave_the_global_ones_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    first, second = (torch.randn(4, generator=torch_rng(0, "a")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(4, generator=torch_rng(0, "b")))
    assert numpy_rng(0, "a").random() == numpy_rng(0, "a").random() != numpy_rng(0, "b").random()
    assert (torch.rand(1), np.random.rand()) == expected
