"""Settings of proxy training, selection and refinement. No torch: the API process reads this."""

from dataclasses import dataclass
from typing import Literal

from distillery.errors import ConfigError
from distillery.models.config import check_classifier_name


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyConfig:
    """How a proxy classifier is trained on the real train split (docs/method.md)."""

    network: str = "convnet-d2-w32"
    """Architecture, as `distillery.models.classifiers` spells it."""
    num_steps: int = 250
    """Optimiser steps."""
    batch_size: int = 256
    """Real images a step."""
    learning_rate: float = 3e-3
    """Of AdamW, with a cosine schedule to zero."""
    robust: bool = True
    """CE + mean CVaR + max CVaR over clusters within each class; off: CE alone."""
    tail_fraction: float = 0.8
    """Share of the worst samples of a cluster that CVaR averages."""
    num_clusters: int = 5
    """Clusters of real samples in each class."""
    min_cluster_size: int = 4
    """Smaller clusters of a batch are merged."""
    accuracy_floor: float = 1.5
    """A proxy below this multiple of chance on the validation split selects nothing."""

    def __post_init__(self) -> None:
        """Refuse values that no proxy can use."""
        check_classifier_name(self.network)
        _check_tail(self.tail_fraction)
        check_counts("proxy", self, "num_steps", "batch_size", "num_clusters", "min_cluster_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """How the images of each class are chosen from the pool."""

    method: Literal["greedy_cvar", "random", "herding", "k_center", "k_medoids"] = "greedy_cvar"
    """`greedy_cvar`: cover the real samples, their worst clusters too; `random`: the first;
    `herding`, `k_center`, `k_medoids`: the classic choices, by the mean, the outliers and the
    middles of the real samples."""
    features: str = "proxy"
    """What images are compared by: `proxy`, or a transformers vision model (folder or Hub id)."""
    tail_fraction: float = 0.2
    """Share of the worst-covered real samples of a cluster."""
    cvar_weight: float = 1.0
    """Weight of the clustered CVaR beside the mean distance."""
    max_reals_per_class: int = 500
    """Real samples per class that a choice is measured on."""

    def __post_init__(self) -> None:
        """Refuse values that nothing can be selected with."""
        _check_tail(self.tail_fraction)
        check_counts("select", self, "max_reals_per_class")


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineConfig:
    """Distribution matching of the chosen images against proxies (Zhao & Bilen 2023, DM)."""

    enabled: bool = True
    """Off: the chosen images are the result."""
    num_steps: int = 120
    """Adam steps on the images."""
    learning_rate: float = 0.1
    """Of Adam, in units of the normalised image; falls to zero along a cosine."""
    reals_per_class: int = 64
    """Real samples per class and step."""
    steps_per_proxy: int = 12
    """Steps before the next proxy takes over."""
    proxy_steps: int = 60
    """Training steps of each proxy."""
    cluster_weight: float = 1.0
    """Weight of matching each cluster's mean beside the class's mean; 0: class means alone."""
    classes_per_step: int = 20
    """Classes refined together; memory does not grow beyond them."""
    num_attempts: int = 1
    """Refinements with other proxies, of which the best on validation is kept."""
    num_students: int = 2
    """Students on validation whose mean loss is the score of a whole set."""

    def __post_init__(self) -> None:
        """Refuse values that no refinement can use."""
        names = ("num_steps", "reals_per_class", "steps_per_proxy", "proxy_steps")
        check_counts("refine", self, *names, "classes_per_step", "num_attempts", "num_students")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"refine.learning_rate must be above 0, got {self.learning_rate}")


def _check_tail(tail_fraction: float) -> None:
    """Raise ConfigError unless `tail_fraction` is in (0, 1]."""
    if not 0 < tail_fraction <= 1:
        raise ConfigError(f"tail_fraction must be in (0, 1], got {tail_fraction}")


def check_counts(part: str, config: object, *names: str) -> None:
    """Raise ConfigError unless these fields of a part of a job are 1 or more, or left open."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{part}.{name} must be 1 or more, got {value}")
