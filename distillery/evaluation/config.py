"""Settings of the students that judge an image set. No torch: the API process reads this too."""

from dataclasses import dataclass

from distillery.errors import ConfigError
from distillery.models.config import check_classifier_name


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """How one student is trained."""

    network: str = "convnet-d2-w32"
    """Architecture, as `distillery.models.classifiers` spells it."""
    num_steps: int = 300
    """Optimiser steps, whatever the size of the set."""
    batch_size: int = 128
    """Images a step; smaller sets are used whole."""
    learning_rate: float = 5e-3
    """Of AdamW, with a cosine schedule to zero."""
    weight_decay: float = 0.01
    """Of AdamW."""
    augmentation: str = "affine"
    """`none`, `affine` or `dsa`."""

    def __post_init__(self) -> None:
        """Refuse values that no student can use."""
        check_classifier_name(self.network)
        if self.num_steps < 1 or self.batch_size < 1:
            raise ConfigError("a student needs num_steps and batch_size of 1 or more")
        if self.augmentation not in ("none", "affine", "dsa"):
            raise ConfigError(
                f"augmentation must be none, affine or dsa, got {self.augmentation!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What the evaluation compares, and how often."""

    student: StudentConfig = StudentConfig()
    """The judge."""
    num_seeds: int = 3
    """Students per image set, each with its own seed."""
    controls: bool = True
    """Judge the controls too: random real, herding, k-medoids, class mean at IPC 1, plain DiT."""
    num_groups: int = 10
    """Clusters of the test images whose worst accuracy is `cluster_min`."""
    full_data: bool = False
    """Judge a student of the whole train split too."""

    def __post_init__(self) -> None:
        """Refuse values that no evaluation can use."""
        if self.num_seeds < 1 or self.num_groups < 1:
            raise ConfigError("evaluation needs num_seeds and num_groups of 1 or more")
