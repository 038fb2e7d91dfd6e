"""DiffFit: what trains, that it starts at the base, that it folds, and that it can be removed."""

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from finetune_helpers import NUM_CLASSES, build_tiny_dit

from distillery.errors import ModelError
from distillery.models.config import PixelDiTConfig
from distillery.models.dit import build_pixel_dit, denoise, label_tables
from finetune.difffit import ROWS, apply_difffit, fold, merge_adapter


def inputs(rows=(0, 2, NUM_CLASSES)) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(rows), 1, 4, 4, generator=generator)
    timesteps = torch.randint(1000, (len(rows),), generator=generator)
    return x, timesteps, torch.tensor(rows)


@torch.no_grad()
def shake(adapter) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def test_the_digits_dit_trains_what_the_method_names() -> None:
    width, blocks = 96, 4
    transformer = build_pixel_dit(PixelDiTConfig.for_images(8, 1, 10), seed=0)
    adapter = apply_difffit(transformer, range(10))
    projections = 4 * width  # query, key, value, output
    feed_forward = 4 * width + width
    modulation = 6 * width
    timestep_mlp = 2 * width
    biases = blocks * (projections + feed_forward + modulation + timestep_mlp)
    biases += width + 2 * width + 2 * 2  # patches, output modulation, output pixels
    scales = blocks * 5 * width
    rows = blocks * 11 * width
    assert adapter.num_parameters() == biases + scales + rows == 12_964
    trained = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
    assert trained == adapter.num_parameters()
    assert trained < 0.02 * sum(p.numel() for p in transformer.parameters())


def test_weights_of_linear_layers_and_other_rows_stay_frozen(tiny_dit) -> None:
    frozen = {n: p.clone() for n, p in tiny_dit.named_parameters() if n.endswith("weight")}
    adapter = apply_difffit(tiny_dit, [0, 2])
    optimizer = torch.optim.SGD(adapter.parameters, lr=0.1)
    denoise(tiny_dit, *inputs()).square().mean().backward()
    optimizer.step()
    now = dict(tiny_dit.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    fold(tiny_dit)
    for name, before in frozen.items():
        if "embedding_table" in name:
            after = tiny_dit.get_parameter(name)
            assert torch.equal(after[[1, 3]], before[[1, 3]])
            assert all(not torch.equal(after[row], before[row]) for row in (0, 2, NUM_CLASSES))


def test_every_parameter_gets_a_gradient(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [0, 2])
    denoise(tiny_dit, *inputs()).square().mean().backward()
    for name, parameter in zip(adapter.names, adapter.parameters, strict=True):
        assert parameter.grad is not None, name
        # the softmax over keys does not see a constant added to all of them
        assert parameter.grad.abs().sum() > 0 or name.endswith("to_k.bias"), name


def test_norm_weights_train_where_a_dit_has_them() -> None:
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, num_layers=1, sample_size=4,
        num_embeds_ada_norm=3, norm_elementwise_affine=True,
    )  # fmt: skip
    names = apply_difffit(transformer, [0]).names
    assert "transformer_blocks.0.norm3.weight" in names
    assert "transformer_blocks.0.norm1.linear.weight" not in names


def test_gradients_equal_those_of_the_written_out_formula(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [0, 2])
    shake(adapter)
    denoise(tiny_dit, *inputs()).square().mean().backward()
    ours = {name: p.grad for name, p in zip(adapter.names, adapter.parameters, strict=True)}

    block = tiny_dit.transformer_blocks[1]
    for name, layer in (("attn1.to_v", block.attn1.to_v), ("ff.net.2", block.ff.net[2])):
        layer.forward = lambda x, layer=layer: x @ layer.weight.T * layer.scale + layer.bias
        tiny_dit.zero_grad()
        denoise(tiny_dit, *inputs()).square().mean().backward()
        for part in ("scale", "bias"):
            expected = getattr(layer, part).grad
            actual = ours[f"transformer_blocks.1.{name}.{part}"]
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_a_scale_of_zero_has_a_finite_gradient(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [0])
    layer = tiny_dit.transformer_blocks[0].attn1.to_v
    with torch.no_grad():
        layer.scale.zero_()
    denoise(tiny_dit, *inputs()).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in adapter.parameters)


def test_a_tiny_negative_scale_has_a_gradient_of_the_right_sign(tiny_dit) -> None:
    apply_difffit(tiny_dit, [0])
    layer = tiny_dit.transformer_blocks[0].attn1.to_v
    x, grad = torch.randn(3, layer.in_features), torch.randn(3, layer.out_features)
    with torch.no_grad():
        layer.scale.fill_(-5e-5)
    layer(x).backward(grad)
    exact = (grad * (x @ layer.weight.T)).sum(0)
    assert (layer.scale.grad.sign() == exact.sign()).all()


def test_it_starts_where_the_base_stands(tiny_dit) -> None:
    before = denoise(tiny_dit, *inputs())
    apply_difffit(tiny_dit, [0, 2])
    assert torch.equal(denoise(tiny_dit, *inputs()), before)


def test_rows_that_do_not_train_keep_their_meaning(tiny_dit) -> None:
    before = denoise(tiny_dit, *inputs((1, 3)))
    adapter = apply_difffit(tiny_dit, [0, 2])
    with torch.no_grad():
        for name, parameter in zip(adapter.names, adapter.parameters, strict=True):
            if name.endswith("rows"):
                parameter.add_(1.0)
    assert torch.equal(denoise(tiny_dit, *inputs((1, 3))), before)
    assert not torch.equal(denoise(tiny_dit, *inputs((0, 2))), before)


def test_folding_gives_a_plain_dit_with_the_same_outputs(tiny_dit) -> None:
    names = set(tiny_dit.state_dict())
    shake(apply_difffit(tiny_dit, [0, 2]))
    adapted = denoise(tiny_dit, *inputs())
    fold(tiny_dit)
    assert set(tiny_dit.state_dict()) == names
    assert (denoise(tiny_dit, *inputs()) - adapted).abs().max() < 1e-5
    plain = build_tiny_dit(seed=5)
    plain.load_state_dict(tiny_dit.state_dict(), strict=True)
    assert (denoise(plain, *inputs()) - adapted).abs().max() < 1e-5
    assert all(isinstance(table, torch.nn.Embedding) for table in label_tables(tiny_dit))


def test_removing_gives_the_base_back(tiny_dit) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_dit.state_dict().items()}
    adapter = apply_difffit(tiny_dit, [0, 2])
    shake(adapter)
    adapter.remove()
    after = tiny_dit.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_saved_arrays_give_the_same_network(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [2, 0])
    shake(adapter)
    arrays = adapter.state()
    expected = denoise(tiny_dit, *inputs())
    assert arrays[ROWS].tolist() == [0, 2, NUM_CLASSES]
    other = build_tiny_dit()
    merge_adapter(other, arrays)
    assert (denoise(other, *inputs()) - expected).abs().max() < 1e-5


def test_an_adapter_of_another_shape_is_refused_and_changes_nothing(tiny_dit) -> None:
    arrays = apply_difffit(build_tiny_dit(channels=3), [0]).state()
    before = {name: tensor.clone() for name, tensor in tiny_dit.state_dict().items()}
    with pytest.raises(ModelError, match="proj_out_2.bias has shape"):
        merge_adapter(tiny_dit, arrays)
    after = tiny_dit.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_missing_and_unknown_entries_are_refused(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [0])
    arrays = adapter.state()
    name = adapter.names[3]
    with pytest.raises(ModelError, match=f"1 entries are missing and 0 are unknown, .* {name}"):
        adapter.load({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ModelError, match="0 entries are missing and 1 are unknown, such as more"):
        adapter.load(arrays | {"more": np.zeros(1)})
    with pytest.raises(ModelError, match=r"label rows \[1, 4\], expected \[0, 4\]"):
        adapter.load(arrays | {ROWS: np.array([1, NUM_CLASSES])})
    with pytest.raises(ModelError, match="no entry 'label_rows'"):
        merge_adapter(build_tiny_dit(), {})


def test_wrong_uses_are_refused(tiny_dit) -> None:
    with pytest.raises(ValueError, match=r"rows must be in 0..4, got 0 to 7"):
        apply_difffit(tiny_dit, [0, 7])
    apply_difffit(tiny_dit, [0])
    with pytest.raises(ModelError, match="carries an adapter already"):
        apply_difffit(tiny_dit, [0])


def test_autocast_keeps_gradients_close(tiny_dit) -> None:
    adapter = apply_difffit(tiny_dit, [0, 2])
    denoise(tiny_dit, *inputs()).square().mean().backward()
    exact = [parameter.grad.clone() for parameter in adapter.parameters]
    tiny_dit.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        output = denoise(tiny_dit, *inputs())
    output.float().square().mean().backward()
    for parameter, expected in zip(adapter.parameters, exact, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - expected).norm() < 0.1 * expected.norm() + 1e-4
