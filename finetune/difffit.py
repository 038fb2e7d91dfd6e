"""DiffFit: a diffusion transformer adapted through its biases, label rows and output scales alone.

What trains is chosen by the type of a module. The published rule, by parts of names, would also
catch whole modulation and timestep layers in diffusers' DiT: 44 % of a small one, not 1.5 %.
Source: Xie et al. (2023), "DiffFit", section 3; scales on the residual branches and projections.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillery.errors import ModelError
from distillery.models.dit import label_tables
from finetune.scaled import RowTable, ScaledLinear

ROWS = "label_rows"
"""Entry of an adapter's arrays that says which rows of the label tables it holds."""


class DiffFitAdapter:
    """The trainable parameters of an adapted transformer, by name, and the way back."""

    def __init__(
        self,
        transformer: nn.Module,
        rows: Sequence[int],
        parameters: Mapping[str, nn.Parameter],
        replaced: Mapping[str, nn.Module],
    ) -> None:
        self.transformer = transformer
        self.rows = tuple(rows)
        self.names = tuple(parameters)
        self.parameters: list[Tensor] = list(parameters.values())
        self._replaced = dict(replaced)
        self._originals = [parameter.detach().clone() for parameter in self.parameters]

    def num_parameters(self) -> int:
        """Return how many numbers train."""
        return sum(parameter.numel() for parameter in self.parameters)

    def state(self, values: Sequence[Tensor] | None = None) -> dict[str, np.ndarray]:
        """Return the adapter as float32 arrays by name, and its label rows as int64.

        Args:
            values: Tensors to store in place of the parameters, such as their averages.
        """
        tensors = self.parameters if values is None else values
        arrays = {
            name: tensor.detach().float().cpu().numpy().copy()
            for name, tensor in zip(self.names, tensors, strict=True)
        }
        return arrays | {ROWS: np.array(self.rows, np.int64)}

    @torch.no_grad()
    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the parameters from arrays that `state` made.

        Raises:
            ModelError: If names, shapes or label rows are not those of this adapter.
        """
        self._check(arrays)
        for name, parameter in zip(self.names, self.parameters, strict=True):
            parameter.copy_(torch.from_numpy(arrays[name]))

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        missing = [name for name in (*self.names, ROWS) if name not in arrays]
        unknown = sorted(set(arrays) - {*self.names, ROWS})
        if missing or unknown:
            raise ModelError(
                f"the adapter does not fit this transformer: {len(missing)} entries are missing "
                f"and {len(unknown)} are unknown, such as {(missing + unknown)[0]}"
            )
        if arrays[ROWS].tolist() != list(self.rows):
            raise ModelError(
                f"the adapter holds label rows {arrays[ROWS].tolist()}, expected {list(self.rows)}"
            )
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if arrays[name].shape != tuple(parameter.shape):
                raise ModelError(
                    f"the adapter's {name} has shape {arrays[name].shape}, "
                    f"expected {tuple(parameter.shape)}: it was trained on another base"
                )

    @torch.no_grad()
    def remove(self) -> None:
        """Put the transformer back as it was before `apply_difffit`, frozen."""
        for name, module in self._replaced.items():
            _set_module(self.transformer, name, module)
        for parameter, original in zip(self.parameters, self._originals, strict=True):
            parameter.copy_(original)
        self.transformer.requires_grad_(False)


def apply_difffit(transformer: nn.Module, rows: Sequence[int]) -> DiffFitAdapter:
    """Freeze a DiT but for the parameters of DiffFit, which start where it stands.

    They are: every bias; weights of norms that have any; a scale on each output of the query, key,
    value and output projections and of the feed-forward's second layer, in every block; and in
    every label table the given rows and the null row.

    Args:
        transformer: A diffusers DiT; changed in place, until `fold` or `DiffFitAdapter.remove`.
        rows: Rows of the label tables that are in use.

    Raises:
        ValueError: If a row is none of the table's classes.
        ModelError: If the transformer is adapted already.
    """
    if any(isinstance(module, ScaledLinear) for module in transformer.modules()):
        raise ModelError("the transformer carries an adapter already: fold or remove it first")
    tables = label_tables(transformer)
    null_row = tables[0].num_embeddings - 1
    in_use = sorted({*map(int, rows), null_row})
    if in_use[0] < 0 or in_use[-1] > null_row:
        raise ValueError(f"rows must be in 0..{null_row}, got {in_use[0]} to {in_use[-1]}")
    transformer.requires_grad_(False)
    row_ids = torch.tensor(in_use, device=tables[0].weight.device)
    tables_and_layers = {id(module) for module in (*tables, *_layers_to_scale(transformer))}
    replaced = {
        name: module
        for name, module in transformer.named_modules()
        if id(module) in tables_and_layers
    }
    for name, module in replaced.items():
        is_table = isinstance(module, nn.Embedding)
        _set_module(
            transformer, name, RowTable(module, row_ids) if is_table else ScaledLinear(module)
        )
    parameters = _trainable(transformer)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return DiffFitAdapter(transformer, in_use, parameters, replaced)


def _layers_to_scale(transformer: nn.Module) -> list[nn.Linear]:
    """Return the projections of attention and the feed-forward's output layer, of every block."""
    layers = []
    blocks: Any = transformer.get_submodule("transformer_blocks")
    for block in blocks:
        attention = block.attn1
        layers += [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]]
        layers.append(block.ff.net[2])
    return layers


def _trainable(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """Return what DiffFit trains in an adapted transformer, by name, chosen by module type."""
    chosen: dict[type, tuple[str, ...]] = {
        nn.Linear: ("bias",),
        nn.Conv2d: ("bias",),
        ScaledLinear: ("bias", "scale"),
        RowTable: ("rows",),
        nn.LayerNorm: ("weight", "bias"),
        nn.GroupNorm: ("weight", "bias"),
        nn.RMSNorm: ("weight",),
    }
    return {
        f"{name}.{part}": module.get_parameter(part)
        for name, module in transformer.named_modules()
        for part in chosen.get(type(module), ())
        if getattr(module, part) is not None
    }


def _set_module(transformer: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    transformer.get_submodule(parent).add_module(child, module)


@torch.no_grad()
def fold(transformer: nn.Module) -> None:
    """Fold an adapter into plain layers: the state dict has a plain DiT's names again.

    Outputs stay the same up to rounding; nothing trains afterwards.
    """
    for name, module in list(transformer.named_modules()):
        if isinstance(module, ScaledLinear | RowTable):
            _set_module(transformer, name, module.plain())
    transformer.requires_grad_(False)


def merge_adapter(transformer: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Build a saved adapter into a plain DiT, as `finetune` returns it.

    Raises:
        ModelError: If the adapter was trained on another base.
    """
    if ROWS not in arrays:
        raise ModelError(f"the adapter has no entry {ROWS!r}: expected the arrays of `finetune`")
    adapter = apply_difffit(transformer, arrays[ROWS].tolist())
    try:
        adapter.load(arrays)
    except ModelError:
        adapter.remove()
        raise
    fold(transformer)
