"""What several stages do alike: open the prepared data, the base, and classifiers on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distillery.data.dataset import Dataset
from distillery.data.normalise import Normalisation, measure_normalisation
from distillery.models.base import DiffusionBase, load_base
from distillery.models.class_rows import ClassMapping, initialise_rows
from distillery.models.classifiers import Classifier, build_classifier
from distillery.tensorfile import read_tensors, write_tensors
from generator.stage import Context


@dataclass(frozen=True, slots=True)
class Reals:
    """The prepared dataset as classifiers see it."""

    dataset: Dataset
    normalisation: Normalisation
    num_classes: int

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Return normalised images (N, C, H, W) and labels (N,) of a split."""
        images, labels = self.dataset.split(name)
        return self.normalisation.normalise(torch.from_numpy(images)), torch.from_numpy(labels)


def open_reals(context: Context) -> Reals:
    """Return the prepared dataset and the statistics of its train split."""
    dataset = Dataset.load(context.inputs["prepare"])
    normalisation = measure_normalisation(dataset.split("train")[0])
    return Reals(dataset, normalisation, len(dataset.class_names))


def open_base(context: Context) -> tuple[DiffusionBase, np.ndarray]:
    """Return the base with the job's classes in its label tables, and their rows (K,)."""
    folder = context.inputs["base"]
    facts = context.facts("base")
    base = load_base(Path(facts["folder"]) if facts["folder"] else folder / "base")
    rows = np.array(facts["rows"], np.int64)
    if facts["mapping"] is not None:
        initialise_rows(base.transformer, _mapping(facts["mapping"]))
    return base, rows


def _mapping(values: dict) -> ClassMapping:
    """Return the class mapping that a stage's facts hold as JSON."""
    return ClassMapping(
        rows=tuple(values["rows"]),
        origins=tuple(values["origins"]),
        initialised_from=tuple(map(tuple, values["initialised_from"])),
    )


def save_classifier(path: Path, network: nn.Module) -> None:
    """Write a classifier's weights."""
    write_tensors(path, {name: value.numpy() for name, value in network.state_dict().items()})


def load_classifier(path: Path, name: str, dataset: Dataset) -> Classifier:
    """Return a classifier of this architecture with the weights of `save_classifier`."""
    network = build_classifier(
        name,
        channels=dataset.channels,
        image_size=dataset.image_size,
        num_classes=len(dataset.class_names),
        seed=0,
    )
    arrays, _ = read_tensors(path)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return network.eval()
