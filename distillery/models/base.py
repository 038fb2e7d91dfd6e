"""Base models: a diffusion transformer with its codec, its noise schedule and its class table.

Two layouts on disk: any diffusers `DiTPipeline` folder, and our pixel folder (`transformer/` and
`scheduler/` as diffusers writes them, `distillery.json` beside). Weights are safetensors only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from distillery.errors import ModelError
from distillery.files import digest_json, write_json
from distillery.models.codec import Codec, LatentCodec, PixelCodec
from distillery.models.components import (
    load_schedule,
    load_transformer,
    load_vae,
    new_folder,
    weights_digest,
)
from distillery.models.config import PUBLISHED_BASES, PixelDiTConfig
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import dit_config
from distillery.models.facts import (
    FACTS_FILE,
    PIPELINE_FILE,
    SCHEDULER_FILE,
    read_facts,
    read_labels,
    read_licence,
)

PIXEL_SCHEMA = "distillery-pixel-base/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionBase:
    """Everything that sampling and fine-tuning need of a base model."""

    kind: Literal["pixel", "latent"]
    """Whether the diffusion works on pixels or on an autoencoder's latents."""
    transformer: nn.Module
    """diffusers' `DiTTransformer2DModel`, label dropout off."""
    codec: Codec
    """Between images in [-1, 1] and latents."""
    alphas_cumprod: Tensor
    """Float64 (T,)."""
    scheduler_config: Mapping[str, Any]
    """diffusers' description of the noise schedule, for export."""
    image_size: int
    """Height and width of the images."""
    channels: int
    """Channels of the images."""
    id2label: Mapping[int, str]
    """Name of each row of the label tables, as far as known."""
    reference: str
    """What the user named: a Hub id, a folder, or the data that it was pretrained on."""
    revision: str | None = None
    """Commit of the Hub repository."""
    licence: str | None = None
    """Licence of the weights; None where nothing is attached or known."""
    digest: str
    """SHA-256 over the weights as they were when the base was made or loaded."""

    @property
    def config_digest(self) -> str:
        """SHA-256 over the settings that networks and schedule were made with.

        Equal weights give other images under other settings: heads, betas, the latents' scale.
        """
        networks = [self.transformer]
        if isinstance(self.codec, LatentCodec):
            networks.append(self.codec.vae)
        settings = [dict(cast(Any, network).config) for network in networks]
        settings.append(dict(self.scheduler_config))
        # names that begin so are the library's own: its version, the folder
        kept = [{k: v for k, v in one.items() if not k.startswith("_")} for one in settings]
        return digest_json(kept)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of what the diffusion works on."""
        return self.codec.latent_shape(self.image_size)

    @property
    def num_rows(self) -> int:
        """Number of classes that the label tables have rows for."""
        return int(dit_config(self.transformer)["num_embeds_ada_norm"])

    @property
    def null_row(self) -> int:
        """Row of the null class: the last one."""
        return self.num_rows

    def to(self, device: torch.device | str) -> "DiffusionBase":
        """Move the networks to a device (in place) and return the base with its schedule there."""
        self.transformer.to(device)
        if isinstance(self.codec, LatentCodec):
            self.codec.vae.to(device)
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))


def pixel_base(
    transformer: nn.Module,
    config: PixelDiTConfig,
    class_names: Sequence[str],
    *,
    reference: str,
) -> DiffusionBase:
    """Return the base around a pixel DiT that was trained on these classes.

    Args:
        transformer: See `dit.build_pixel_dit`; call this after training, for the digest.
        config: What it was built with.
        class_names: Name of each row, in order.
        reference: What it was trained on, for the record.

    Raises:
        ValueError: If the number of names is not the number of rows.
    """
    if len(class_names) != config.num_classes:
        raise ValueError(f"{config.num_classes} class names expected, got {len(class_names)}")
    return DiffusionBase(
        kind="pixel",
        transformer=transformer,
        codec=PixelCodec(config.channels),
        alphas_cumprod=alphas_cumprod(config.noise_schedule, config.num_timesteps),
        scheduler_config={
            "_class_name": "DDIMScheduler",
            "beta_schedule": config.noise_schedule,
            "num_train_timesteps": config.num_timesteps,
            "clip_sample": False,
            "prediction_type": "epsilon",
        },
        image_size=config.image_size,
        channels=config.channels,
        id2label=dict(enumerate(class_names)),
        reference=reference,
        digest=weights_digest(transformer),
    )


def save_pixel_base(base: DiffusionBase, folder: Path) -> None:
    """Write a pixel base to a new folder, whole or not at all; `load_base` reads it back.

    Raises:
        ValueError: If `base` is a latent base (see `export.export_pipeline`).
        ModelError: If `folder` exists.
    """
    if base.kind != "pixel":
        raise ValueError("save_pixel_base needs a pixel base, got a latent one")
    with new_folder(folder) as partial:
        cast(Any, base.transformer).save_pretrained(partial / "transformer")
        (partial / SCHEDULER_FILE).parent.mkdir()
        write_json(partial / SCHEDULER_FILE, dict(base.scheduler_config))
        facts = {
            "schema": PIXEL_SCHEMA,
            "class_names": [base.id2label[row] for row in range(base.num_rows)],
            "reference": base.reference,
            "revision": base.revision,
            "licence": base.licence,
            "digest": weights_digest(base.transformer),
        }
        write_json(partial / FACTS_FILE, facts)


def load_base(
    folder: Path, *, reference: str | None = None, revision: str | None = None
) -> DiffusionBase:
    """Load a base model from a folder, in float32 on the CPU.

    Args:
        folder: A diffusers `DiTPipeline` folder, or one that `save_pixel_base` wrote.
        reference: What the user named, for the record; None: what the folder says, or its path.
        revision: Commit of the Hub repository that the folder came from.

    Raises:
        ModelError: If the folder is missing, is neither layout, or its weights are broken, do not
            fit or would have to be unpickled.
    """
    if not folder.is_dir():
        raise ModelError(f"no base model at {folder}: name a folder or a Hub id like org/name")
    if (folder / PIPELINE_FILE).is_file():
        return _load_latent_base(folder, reference, revision)
    if (folder / FACTS_FILE).is_file():
        return _load_pixel_base(folder, reference, revision)
    raise ModelError(
        f"{folder} holds no base model: expected {PIPELINE_FILE} (a diffusers DiT pipeline) "
        f"or {FACTS_FILE} (a pixel base of ours)"
    )


def _load_pixel_base(folder: Path, reference: str | None, revision: str | None) -> DiffusionBase:
    """Load what `save_pixel_base` wrote."""
    facts = read_facts(folder / FACTS_FILE)
    names = facts.get("class_names")
    if facts.get("schema") != PIXEL_SCHEMA or not isinstance(names, list):
        raise ModelError(
            f"{folder / FACTS_FILE} must describe a {PIXEL_SCHEMA}, got {facts.get('schema')!r}"
        )
    transformer = load_transformer(folder)
    dit = dit_config(transformer)
    digest = weights_digest(transformer)
    if digest != facts.get("digest") or len(names) != dit["num_embeds_ada_norm"]:
        raise ModelError(f"the weights in {folder} are not those that were saved: save them again")
    config, schedule = load_schedule(folder)
    return DiffusionBase(
        kind="pixel",
        transformer=transformer,
        codec=PixelCodec(dit["in_channels"]),
        alphas_cumprod=schedule,
        scheduler_config=config,
        image_size=dit["sample_size"],
        channels=dit["in_channels"],
        id2label=dict(enumerate(names)),
        reference=reference or str(facts.get("reference") or folder),
        revision=revision or facts.get("revision"),
        licence=facts.get("licence"),
        digest=digest,
    )


def _load_latent_base(folder: Path, reference: str | None, revision: str | None) -> DiffusionBase:
    """Load a diffusers DiT pipeline: the published layout, or what `export_pipeline` wrote."""
    index = read_facts(folder / PIPELINE_FILE)
    if index.get("_class_name") != "DiTPipeline":
        raise ModelError(
            f"{folder / PIPELINE_FILE} must name a DiTPipeline, got {index.get('_class_name')!r}: "
            "use a class-conditional DiT such as facebook/DiT-XL-2-256"
        )
    facts = read_facts(folder / FACTS_FILE) if (folder / FACTS_FILE).is_file() else {}
    reference = reference or str(facts.get("reference") or folder)
    transformer, vae = load_transformer(folder), load_vae(folder)
    config, schedule = load_schedule(folder)
    codec, dit = LatentCodec(vae), dit_config(transformer)
    if dit["in_channels"] != vae.config.latent_channels:
        raise ModelError(
            f"transformer and autoencoder of {folder} do not fit: "
            f"{dit['in_channels']} and {vae.config.latent_channels} latent channels"
        )
    published = PUBLISHED_BASES.get(reference)
    return DiffusionBase(
        kind="latent",
        transformer=transformer,
        codec=codec,
        alphas_cumprod=schedule,
        scheduler_config=config,
        image_size=dit["sample_size"] * codec.factor,
        channels=vae.config.in_channels,
        id2label=read_labels(folder / PIPELINE_FILE),
        reference=reference,
        revision=revision or facts.get("revision"),
        licence=facts.get("licence") or (published.licence if published else read_licence(folder)),
        digest=weights_digest(transformer, vae),
    )
