"""Writing a fine-tuned base as a folder that others can load without us.

A latent base becomes a diffusers `DiTPipeline` folder, a pixel base our pixel layout. The adapter
must be folded into the weights first: what is written is a plain DiT.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from distillery.files import write_bytes, write_json
from distillery.models.base import DiffusionBase, save_pixel_base
from distillery.models.class_rows import map_classes
from distillery.models.codec import LatentCodec
from distillery.models.components import new_folder
from distillery.models.dit import dit_config
from distillery.models.facts import FACTS_FILE, PIPELINE_FILE, SCHEDULER_FILE

LATENT_SCHEMA = "distillery-latent-base/1"


def export_pipeline(
    base: DiffusionBase,
    transformer: nn.Module,
    folder: Path,
    class_names: Sequence[str],
    class_rows: Sequence[int],
) -> None:
    """Write `transformer` with the rest of `base` to a new folder, whole or not at all.

    Args:
        base: Where codec, schedule, licence and the names of other classes come from.
        transformer: A plain DiT of the same configuration, any adapter folded in.
        folder: Must not exist. Latent bases load with `DiTPipeline.from_pretrained(folder)`; its
            guidance takes row 1000 for the null class, so bases with other tables sample there
            with `guidance_scale=1` only.
        class_names: Names of the K classes, which become the labels of their rows.
        class_rows: Row of each class, (K,).

    Raises:
        ValueError: If names and rows do not fit, or `transformer` is not a plain DiT.
        ModelError: If `folder` exists.
    """
    rows = [int(row) for row in class_rows]
    if len(rows) != len(class_names) or len(set(rows)) != len(rows):
        raise ValueError(f"each of {len(class_names)} classes needs a row of its own, got {rows}")
    if not all(0 <= row < base.num_rows for row in rows):
        raise ValueError(f"class_rows must lie in [0, {base.num_rows}), got {rows}")
    _check_plain(transformer)
    labels = _labels(base, class_names, rows)
    exported = replace(base, transformer=transformer, id2label=labels)
    if base.kind == "pixel":
        save_pixel_base(exported, folder)
        return
    with new_folder(folder) as partial:
        _write_latent(exported, partial, class_names, rows)


def _check_plain(transformer: nn.Module) -> None:
    """Refuse a network whose weights a stock DiT would not load."""
    with torch.device("meta"):
        plain = cast(nn.Module, DiTTransformer2DModel(**_arguments(transformer)))
    expected = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    present = {name: tensor.shape for name, tensor in transformer.state_dict().items()}
    if expected != present:
        other = sorted(set(expected) ^ set(present))[:3]
        raise ValueError(f"transformer must be a plain DiT: fold the adapter first, see {other}")


def _arguments(transformer: nn.Module) -> dict[str, Any]:
    """Return a configuration without diffusers' private entries."""
    config = dit_config(transformer)
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _labels(base: DiffusionBase, class_names: Sequence[str], rows: list[int]) -> dict[int, str]:
    """Return the labels of all rows: the user's names, before the base's own where they fit."""
    mapping = map_classes(class_names, base.id2label, base.num_rows)
    known = dict(zip(mapping.rows, mapping.origins, strict=True))
    labels = dict(base.id2label)
    for index, (row, name) in enumerate(zip(rows, class_names, strict=True)):
        if base.kind == "pixel":
            labels[row] = name
            continue
        # DiTPipeline takes commas for borders between synonyms
        own = " ".join(name.replace(",", " ").split())
        is_known = mapping.rows[index] == row and known[row] == "known"
        synonyms = [part.strip() for part in labels.get(row, "").split(",")] if is_known else []
        labels[row] = ", ".join([own, *(part for part in synonyms if part not in ("", own))])
    return labels


def _write_latent(
    base: DiffusionBase, folder: Path, class_names: Sequence[str], rows: list[int]
) -> None:
    """Write the published layout of a DiT pipeline."""
    cast(Any, base.transformer).save_pretrained(folder / "transformer")
    cast(LatentCodec, base.codec).vae.save_pretrained(folder / "vae")
    (folder / SCHEDULER_FILE).parent.mkdir()
    write_json(folder / SCHEDULER_FILE, dict(base.scheduler_config))
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": diffusers.__version__,
        "id2label": {str(row): base.id2label[row] for row in sorted(base.id2label)},
        "scheduler": ["diffusers", base.scheduler_config.get("_class_name", "DDIMScheduler")],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / PIPELINE_FILE, index)
    facts = {
        "schema": LATENT_SCHEMA,
        "class_names": list(class_names),
        "class_rows": rows,
        "reference": base.reference,
        "revision": base.revision,
        "licence": base.licence,
        "base_digest": base.digest,
    }
    write_json(folder / FACTS_FILE, facts)
    if base.licence:  # the Hub and our own loader read it from here
        write_bytes(folder / "README.md", f"---\nlicense: {base.licence}\n---\n".encode())
