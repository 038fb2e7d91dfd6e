"""The parts of a model folder: networks, noise schedule, facts; each read strictly or refused.

Only the two classes that a DiT pipeline is made of are ever built, whatever a folder names, and
weights come from safetensors alone: nothing in a folder is executed or unpickled.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors import SafetensorError
from torch import Tensor, nn

from distillery.errors import ModelError
from distillery.files import digest_arrays
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import disable_label_dropout
from distillery.models.facts import SCHEDULER_FILE, read_facts

SURPLUS_KEYS = {"pos_embed.pos_embed"}
"""Constants that older versions of diffusers stored among the weights."""


def weights_digest(*modules: nn.Module) -> str:
    """Return one SHA-256 over the names, shapes and values of all weights."""
    arrays = {
        f"{index}/{name}": tensor.detach().cpu().numpy()
        for index, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }
    return digest_arrays(arrays)


def load_transformer(folder: Path) -> nn.Module:
    """Load `folder/transformer` in float32, label dropout off (see `dit.disable_label_dropout`)."""
    transformer = _load_network(DiTTransformer2DModel, folder / "transformer")
    channels, outputs = transformer.config.in_channels, transformer.out_channels
    if outputs not in (channels, 2 * channels):
        raise ModelError(
            f"{folder / 'transformer'} must predict {channels} channels of noise, with or without "
            f"as many of variance, got {outputs}: use another base model"
        )
    disable_label_dropout(transformer)
    return transformer.eval()


def load_vae(folder: Path) -> Any:
    """Load the autoencoder `folder/vae` in float32."""
    return _load_network(AutoencoderKL, folder / "vae").eval()


def _load_network(kind: Any, folder: Path) -> Any:
    """Load a diffusers network from safetensors, with every weight present and none left over."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder / 'config.json'} is missing: the model folder is incomplete")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")):
            raise ModelError(
                f"the weights in {folder} are a pickle (.bin), which is not loaded: convert them "
                f"once with `python -m distillery.models.convert {folder.parent}`"
            )
        raise ModelError(f"no weights (*.safetensors) in {folder}: the model folder is incomplete")
    try:
        network, info = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ModelError(f"cannot load the model in {folder}: {first_line}") from error
    missing = sorted(info["missing_keys"])
    surplus = sorted(set(info["unexpected_keys"]) - SURPLUS_KEYS)
    if missing or surplus:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json: "
            f"{len(missing)} missing {missing[:3]}, {len(surplus)} too many {surplus[:3]}"
        )
    return network


def load_schedule(folder: Path) -> tuple[dict[str, Any], Tensor]:
    """Return the scheduler configuration of a folder and its schedule, float64 (T,).

    Raises:
        ModelError: If it is missing, or the model was trained in a way that we do not sample.
    """
    path = folder / SCHEDULER_FILE
    config = read_facts(path)
    prediction = config.get("prediction_type", "epsilon")
    kind = config.get("beta_schedule", "linear")
    if prediction != "epsilon" or kind not in ("linear", "squaredcos_cap_v2"):
        raise ModelError(
            f"{path} must describe epsilon prediction on a linear or squaredcos_cap_v2 schedule, "
            f"got {prediction} on {kind}: use another base model"
        )
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        raise ModelError(f"{path} has betas of its own, which we cannot sample: use another base")
    for name in ("clip_sample", "thresholding"):
        if config.get(name):
            raise ModelError(
                f"{path} asks for {name}, which we do not do: set it to false if the model makes "
                "images without it, or use another base model"
            )
    schedule = alphas_cumprod(
        kind,
        config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 1e-4),
        beta_end=config.get("beta_end", 0.02),
    )
    return config, schedule


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a private folder to fill, and rename it to `folder` when all went well.

    Raises:
        ModelError: If `folder` exists.
    """
    if folder.exists():
        raise ModelError(f"{folder} exists already: name a new folder to write the model to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
