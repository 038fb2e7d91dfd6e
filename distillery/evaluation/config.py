"""Settings of the students that judge an image set. No torch: the API process reads this too."""

from dataclasses import dataclass

from distillery.errors import ConfigError
from distillery.evaluation.protocols import find_protocol
from distillery.evaluation.setting import Overrides
from distillery.models.config import check_classifier_name

AUGMENTATIONS = ("none", "affine", "affine-flip", "dsa", "dsa-no-flip")


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
    """`none`, `affine` (`affine-flip` where a mirrored image is as good), `dsa` (`dsa-no-flip`
    where it is another)."""

    def __post_init__(self) -> None:
        """Refuse values that no student can use."""
        check_classifier_name(self.network)
        if self.num_steps < 1 or self.batch_size < 1:
            raise ConfigError("a student needs num_steps and batch_size of 1 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(
                f"the learning_rate of a student must be above 0, got {self.learning_rate}"
            )
        if not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"the weight_decay of a student must be 0 or more, got {self.weight_decay}"
            )
        if self.augmentation not in AUGMENTATIONS:
            raise ConfigError(
                f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}"
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
    protocol: str | None = None
    """A published protocol in place of `student`: one network, accuracy (see `protocols`)."""
    protocol_epochs: int | None = None
    """Epochs in place of the protocol's."""
    protocol_network: str | None = None
    """Network in place of the protocol's."""

    def __post_init__(self) -> None:
        """Refuse values that no evaluation can use."""
        if self.num_seeds < 1:
            raise ConfigError(f"num_seeds (--students) must be 1 or more, got {self.num_seeds}")
        if self.num_groups < 1:
            raise ConfigError(f"evaluate.num_groups must be 1 or more, got {self.num_groups}")
        if self.protocol is not None:
            protocol = find_protocol(self.protocol)
            if protocol.task != "accuracy" or len(protocol.networks) > 1:
                raise ConfigError(
                    f"{self.protocol} is no protocol for the inside of a job: finish the job, then "
                    f"run distillery evaluate FOLDER --protocol {self.protocol}"
                )
            self.protocol_overrides()  # refuses what no student can use
        elif self.protocol_epochs is not None or self.protocol_network is not None:
            raise ConfigError("protocol_epochs and protocol_network need a protocol beside them")

    def protocol_overrides(self) -> Overrides:
        """Return what the job changes of its protocol."""
        networks = () if self.protocol_network is None else (self.protocol_network,)
        return Overrides(
            networks=networks, num_epochs=self.protocol_epochs, num_repeats=self.num_seeds
        )
