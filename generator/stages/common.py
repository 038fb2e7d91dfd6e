"""What several stages do alike: open the prepared data, the base, and classifiers on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillery.data.dataset import Dataset
from distillery.data.normalise import (
    Images,
    Normalisation,
    NormalisedImages,
    measure_normalisation,
)
from distillery.errors import ModelError
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import (
    cross_entropy_objective,
    inference_batch,
    train_classifier,
)
from distillery.machine import available_cores
from distillery.models.base import DiffusionBase, load_base
from distillery.models.class_rows import ClassMapping, initialise_rows
from distillery.models.classifiers import Classifier, build_classifier
from distillery.models.codec import Codec
from distillery.tensorfile import read_tensors, write_tensors
from generator.config import DistillConfig
from generator.public_names import public_name
from generator.stage import Context

CPU = torch.device("cpu")
CLUSTERED_PX = 32
"""The largest side at which images are clustered."""


def machine_settings(config: DistillConfig) -> dict[str, Any]:
    """Return what a stage that computes depends on beside its own settings."""
    return {"num_threads": config.num_threads, "device": config.device}


def device_of(config: DistillConfig) -> torch.device:
    """Return the device that a job computes on."""
    return torch.device(config.device or "cpu")


def num_workers(config: DistillConfig) -> int:
    """Return how many small networks are trained at once: one on a GPU, else what cores allow.

    Each draws from a seed of its own, so this number changes no result.
    """
    if config.device == "cuda":
        return 1
    return max(1, available_cores() // (config.num_threads or 1))


@dataclass(frozen=True, slots=True)
class Reals:
    """The prepared dataset as classifiers see it."""

    dataset: Dataset
    normalisation: Normalisation
    num_classes: int
    device: torch.device = CPU

    def split(self, name: str) -> tuple[NormalisedImages, Tensor]:
        """Return normalised images (N, C, H, W) and labels (N,) of a split, on the device."""
        images, labels = self.dataset.split(name)
        return self.normalised(images), torch.from_numpy(labels).to(self.device)

    def normalised(self, images: np.ndarray) -> NormalisedImages:
        """Return raw uint8 images (N, C, H, W) as normalised ones on the device."""
        return NormalisedImages(torch.from_numpy(images).to(self.device), self.normalisation)

    def new_classifier(self, name: str, seed: int) -> Classifier:
        """Return an untrained classifier of these images, on the device."""
        dataset = self.dataset
        network = build_classifier(
            name, dataset.channels, dataset.image_size, self.num_classes, seed
        )
        return network.to(self.device)

    def load_classifier(self, path: Path, name: str) -> Classifier:
        """Return a classifier of this architecture with the weights of `save_classifier`."""
        network = self.new_classifier(name, seed=0)
        arrays, _ = read_tensors(path)
        network.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
        return network.eval()


def fit_classifier(
    reals: Reals, images: NormalisedImages, labels: Tensor, recipe: StudentConfig, *, seed: int,
    on_step: Callable[[int], None] | None = None,
) -> Classifier:  # fmt: skip
    """Return a classifier of normalised images (N, C, H, W), trained with hard labels (N,)."""
    network = reals.new_classifier(recipe.network, seed)
    train_classifier(
        network, images, cross_entropy_objective(labels), recipe, seed=seed,
        background=reals.normalisation.background(), on_step=on_step,
    )  # fmt: skip
    return network


def rows_to_cluster(images: Images) -> np.ndarray:
    """Return normalised images (N, C, H, W) as the rows (N, D) that k-means compares.

    Larger images are seen at 32 px: what counts is their colours and layout, not their texture.
    """
    side = min(images.shape[-1], CLUSTERED_PX)
    parts = images.split(inference_batch(images.shape[-1]))
    small = torch.cat([torch.nn.functional.adaptive_avg_pool2d(part, side) for part in parts])
    return small.flatten(1).cpu().numpy()


def open_reals(context: Context) -> Reals:
    """Return the prepared dataset of a job, on its device."""
    return reals_of(Dataset.load(context.inputs["prepare"]), device_of(context.config))


def reals_of(dataset: Dataset, device: torch.device = CPU) -> Reals:
    """Return a prepared dataset with the statistics of its train split."""
    normalisation = measure_normalisation(dataset.split("train")[0])
    return Reals(dataset, normalisation, len(dataset.class_names), device)


def load_named_base(config: DistillConfig, folder: Path) -> DiffusionBase:
    """Return the base in a folder, on the CPU, under the name that the user gave it."""
    if config.base.reference == "pixel":
        return load_base(folder)
    reference = public_name(config.base.reference)
    return load_base(folder, reference=reference, revision=config.base.revision)


def open_base(context: Context) -> tuple[DiffusionBase, np.ndarray]:
    """Return the base with the job's classes in its label tables, and their rows (K,).

    Raises:
        ModelError: If it is no longer the one that the job began with.
    """
    facts = context.facts("base")
    folder = Path(facts["folder"]) if facts["folder"] else context.inputs["base"] / "base"
    base = load_named_base(context.config, folder)
    # a base that was trained here has no other settings than those of its own stage
    has_settings = facts.get("config_digest") in (None, base.config_digest)
    if base.digest != facts["digest"] or not has_settings:
        raise ModelError(
            f"the model in {folder} has changed since this job began: put the old files back, or "
            "give the new ones a folder of their own"
        )
    rows = np.array(facts["rows"], np.int64)
    if facts["mapping"] is not None:
        initialise_rows(base.transformer, _mapping(facts["mapping"]))
    return base.to(device_of(context.config)), rows


def refining_codec(context: Context) -> Codec | None:
    """Return the base's codec where refinement moves latents, None where it needs none."""
    refine = context.config.refine
    if not refine.enabled or refine.parameterisation != "latent":
        return None
    return open_base(context)[0].codec


def _mapping(values: dict) -> ClassMapping:
    """Return the class mapping that a stage's facts hold as JSON."""
    return ClassMapping(
        rows=tuple(values["rows"]),
        origins=tuple(values["origins"]),
        initialised_from=tuple(map(tuple, values["initialised_from"])),
    )


def save_classifier(path: Path, network: nn.Module) -> None:
    """Write a classifier's weights."""
    state = network.state_dict()
    write_tensors(path, {name: value.cpu().numpy() for name, value in state.items()})
