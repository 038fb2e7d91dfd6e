"""Stage encode: the autoencoder's posterior of every training image, once, with both flips.

Encoding at every step is 66 to 87 % of a published fine-tuning step (docs/method.md). A pixel base
needs none of it. Rows are written in place; a row counter says how far a killed run came.
"""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from distillery.data.dataset import Dataset
from distillery.files import write_json
from distillery.models.codec import Codec
from distillery.progress import Progress
from distillery.tensorfile import encode_header, map_tensors
from generator.config import DistillConfig
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import device_of, load_named_base, machine_settings

LATENTS = "latents.safetensors"
BATCH_SIZE = 16


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the latents depend on."""
    if config.base.reference == "pixel":
        return {"kind": "pixel"}
    return {
        "base": config.base.reference,
        "revision": config.base.revision,
        "flip": config.horizontal_flip,
        **machine_settings(config),
    }


def run(context: Context) -> StageOutput:
    """Encode the train split, or say that there is nothing to encode."""
    if context.facts("base")["kind"] == "pixel":
        return StageOutput("nothing to do: a pixel base works on the images themselves")
    device = device_of(context.config)
    folder = Path(context.facts("base")["folder"])
    base = load_named_base(context.config, folder).to(device)
    images, _ = Dataset.load(context.inputs["prepare"]).split("train")
    num_flips = 2 if context.config.horizontal_flip else 1
    shape = (len(images), num_flips, *base.latent_shape)
    path = context.folder / LATENTS
    _allocate(path, shape)
    _encode_rows(context, base.codec, device, images, path)
    size = path.stat().st_size / 2**20
    return StageOutput(f"{len(images)} images x {num_flips} to latents {shape[2:]}, {size:.0f} MiB")


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Write the header of a file with zeroed means and deviations, unless it is there."""
    if path.exists():
        return
    dtype = np.dtype("<f2")
    header = encode_header({"mean": (dtype, shape), "std": (dtype, shape)}, {})
    partial = path.with_name("." + path.name)
    with open(partial, "wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * dtype.itemsize * int(np.prod(shape)))
    partial.rename(path)


def _encode_rows(
    context: Context, codec: Codec, device: torch.device, images: np.ndarray, path: Path
) -> None:
    """Fill the rows that are still missing, flushing each batch before it is counted."""
    counter = context.folder / "checkpoint-rows.json"
    done = json.loads(counter.read_text())["rows"] if counter.exists() else 0
    arrays = map_tensors(path, is_writable=True)
    num_flips = arrays["mean"].shape[1]
    for start in range(done, len(images), BATCH_SIZE):
        raw = torch.from_numpy(images[start : start + BATCH_SIZE]).to(device)
        batch = raw.float() / 127.5 - 1
        if batch.shape[1] == 1:
            batch = batch.expand(-1, 3, -1, -1)
        for flip in range(num_flips):
            mean, std = codec.encode_moments(batch.flip(3) if flip else batch)
            arrays["mean"][start : start + len(batch), flip] = mean.cpu().numpy()
            arrays["std"][start : start + len(batch), flip] = std.cpu().numpy()
        for array in arrays.values():
            cast(np.memmap, array).flush()
        write_json(counter, {"rows": start + len(batch)})
        context.on_progress(Progress("encode", start + len(batch), len(images)))


STAGE = Stage("encode", 1, ("prepare", "base"), settings, run, is_shared=True)
