"""Building a DiT and reaching into its label tables."""

import torch

from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit, denoise, disable_label_dropout, label_tables

CONFIG = PixelDiTConfig(
    image_size=4, channels=1, num_classes=3, patch_size=2, num_layers=2, num_heads=2, head_dim=8
)
X = torch.linspace(-1, 1, 64).view(4, 1, 4, 4)
TIMESTEPS = torch.tensor([0, 10, 500, 999])


def test_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = build_pixel_dit(CONFIG, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    torch.randn(5)
    second, other = build_pixel_dit(CONFIG, seed=1), build_pixel_dit(CONFIG, seed=2)
    assert all(torch.equal(first[name], value) for name, value in second.state_dict().items())
    assert any(not torch.equal(first[name], value) for name, value in other.state_dict().items())


def test_label_dropout_is_off_and_the_null_row_stays() -> None:
    network = build_pixel_dit(CONFIG, seed=0).train()
    rows = torch.tensor([0, 1, 2, 3])
    first, second = (denoise(network, X, TIMESTEPS, rows) for _ in range(2))
    assert torch.equal(first, second)
    assert [table.weight.shape[0] for table in label_tables(network)] == [4, 4]


def test_dropout_would_be_drawn_without_the_switch() -> None:
    network = build_pixel_dit(CONFIG, seed=0).train()
    for module in network.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.5
    rows = torch.zeros(4, dtype=torch.int64)
    outputs = [denoise(network, X, TIMESTEPS, rows) for _ in range(4)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])
    disable_label_dropout(network)
    torch.testing.assert_close(
        denoise(network, X, TIMESTEPS, rows), denoise(network, X, TIMESTEPS, rows)
    )


def test_label_tables_are_all_that_the_label_goes_through() -> None:
    network = build_pixel_dit(CONFIG, seed=0).eval()
    before = denoise(network, X, TIMESTEPS, torch.tensor([1, 1, 2, 2]))
    for table in label_tables(network):
        table.weight.data[2] = table.weight.data[1]
    after = denoise(network, X, TIMESTEPS, torch.tensor([2, 2, 1, 1]))
    torch.testing.assert_close(before[:2], after[:2])  # row 2 is row 1 now, in every layer
    assert not torch.allclose(before[2:], after[2:])


def test_each_label_table_receives_a_gradient() -> None:
    network = build_pixel_dit(CONFIG, seed=0)
    denoise(network, X, TIMESTEPS, torch.tensor([0, 0, 3, 3])).square().sum().backward()
    for table in label_tables(network):
        assert table.weight.grad is not None
        assert (table.weight.grad.abs().sum(1) > 0).tolist() == [True, False, False, True]
