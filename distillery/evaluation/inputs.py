"""What a protocol works on: the distilled set, the real splits, and where the work is done."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distillery.data.normalise import Normalisation
from distillery.evaluation.harness import ImageSet
from distillery.evaluation.setting import Setting
from distillery.evaluation.student import Teacher, TrainingSet
from distillery.models.classifiers import Classifier, build_classifier
from distillery.progress import OnProgress
from distillery.seeds import derive_seed

Split = tuple[np.ndarray, np.ndarray]
"""Raw uint8 images (N, C, H, W) and their labels, int64 (N,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A second dataset, of classes that the students have not seen."""

    name: str
    fingerprint: str
    train: Split
    test: Split
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """A distilled set and what it is held against, all at the size that students see."""

    distilled: ImageSet
    normalisation: Normalisation
    num_classes: int
    test: Split
    train: Split | None = None
    """The real training split, where the protocol reads it."""
    target: Target | None = None
    teacher: Teacher | None = None
    """Of soft labels; without one the logits of the distilled set are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How and where a protocol is carried out."""

    setting: Setting
    inputs: Inputs
    store: Path
    """Finished trainings, a JSON file."""
    seed: int = 0
    num_workers: int = 1
    device: torch.device = torch.device("cpu")
    keep_best: bool = False
    """Measure on the way too and keep the best accuracy: one that is chosen on the test split."""
    on_progress: OnProgress

    def training_set(self, image_set: ImageSet) -> TrainingSet:
        """Return a set on the device, with the teacher's labels where the protocol is soft."""
        logits = image_set.teacher_logits
        is_soft = self.setting.protocol.labels == "soft"
        return TrainingSet(
            images=torch.from_numpy(np.ascontiguousarray(image_set.images)).to(self.device),
            labels=torch.from_numpy(image_set.labels).to(self.device),
            normalisation=self.inputs.normalisation,
            teacher=self.inputs.teacher if is_soft else None,
            teacher_logits=(
                torch.from_numpy(logits).to(self.device) if is_soft and logits is not None else None
            ),
        )

    def new_network(self, name: str, num_classes: int, *path: str | int) -> Classifier:
        """Return an untrained network of this name on the device, its weights fixed by `path`."""
        case = self.setting.case
        seed = derive_seed(self.seed, "protocol", *path)
        norm = self.setting.recipes[name].norm
        network = build_classifier(name, case.channels, case.image_size, num_classes, seed, norm)
        return network.to(self.device)
