"""Diffusion transformers: building small ones, and the few places where we reach into them.

The network is diffusers' `DiTTransformer2DModel` unchanged, so its weights load anywhere. Rows of
its label tables: 0..R-1 are classes, row R is the null class that guidance needs.
Source: Peebles & Xie (2023), "Scalable diffusion models with transformers".
"""

from collections.abc import Mapping
from typing import Any, cast

from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor, nn

from distillery.models.config import PixelDiTConfig
from distillery.models.initialise import seeded_weights


def build_pixel_dit(config: PixelDiTConfig, seed: int) -> nn.Module:
    """Return an untrained DiT whose weights depend on `config` and `seed` alone.

    diffusers' own initialisation: on small images it trained better than zeroed modulations
    (docs/method.md). Label dropout is off, see `disable_label_dropout`.
    """
    with seeded_weights(seed, "pixel-dit"):
        # diffusers' classes are untyped, so they count as plain modules from here on
        transformer = cast(nn.Module, DiTTransformer2DModel(**config.transformer_config()))
    disable_label_dropout(transformer)
    return transformer


def dit_config(transformer: nn.Module) -> Mapping[str, Any]:
    """Return the diffusers configuration that a DiT was built with."""
    return cast(Any, transformer).config


def _label_embedders(transformer: nn.Module) -> list[LabelEmbedding]:
    """Return the label embedders in the order of the blocks; the output layer uses the first."""
    return [module for module in transformer.modules() if isinstance(module, LabelEmbedding)]


def disable_label_dropout(transformer: nn.Module) -> None:
    """Turn off the label dropout inside the network; its label tables keep their null row.

    Each block draws its own dropout, so with 28 blocks no sample ever loses its label everywhere.
    The training loop puts the null row in place of a label once per sample instead.
    """
    for embedder in _label_embedders(transformer):
        embedder.dropout_prob = 0.0


def label_tables(transformer: nn.Module) -> list[nn.Embedding]:
    """Return every block's label table, each with weights (R + 1, width).

    The output layer looks labels up in the first block's table, so the list is complete.
    """
    return [embedder.embedding_table for embedder in _label_embedders(transformer)]


def denoise(transformer: nn.Module, x: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
    """Return the network's output for noisy images.

    Args:
        transformer: A diffusers DiT.
        x: Noisy images or latents, (N, C, H, W).
        timesteps: Int64 (N,).
        rows: Int64 (N,) rows of the label tables.

    Returns:
        Predicted noise (N, C, H, W), or noise and variance values (N, 2C, H, W): see `split_eps`.
    """
    return transformer(x, timestep=timesteps, class_labels=rows, return_dict=False)[0]
