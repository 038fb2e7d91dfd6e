"""Settings of proxy training, selection and refinement. No torch: the API process reads this."""

from dataclasses import dataclass, field
from typing import Literal

from distillery.errors import ConfigError
from distillery.models.config import check_classifier_name
from robust.constraint_weights import ConstraintWeights, published_weights

OBJECTIVES = ("clusters", "dc", "dsa", "dm", "idm", "idc", "dream", "pdd")
"""What refinement can match."""
PARAMETERISATIONS = ("pixels", "multi_formation", "latent")
GRADIENT_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Outer and inner loops of gradient matching (DC, DSA) by images per class."""
PROGRESSIVE_STAGES = {10: 5, 50: 5}
"""Stages of PDD by images per class; each distils an equal share of them."""
CLUSTER_WEIGHT = 1.0
"""Default of `refine.cluster_weight`."""
LATER = {"later": True}
"""Metadata of fields that came after jobs were kept: at its default such a field is no part of a
stage's key, so that what was computed before it stays valid (`generator.config.key_dict`)."""


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
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"proxy.learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.accuracy_floor < float("inf"):
            raise ConfigError(f"proxy.accuracy_floor must be 0 or more, got {self.accuracy_floor}")
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
        if not 0 <= self.cvar_weight < float("inf"):
            raise ConfigError(f"select.cvar_weight must be 0 or more, got {self.cvar_weight}")
        if not self.features:
            raise ConfigError(
                "select.features must be proxy, or the folder or Hub id of a vision model, got "
                "nothing"
            )
        check_counts("select", self, "max_reals_per_class")


@dataclass(frozen=True, kw_only=True, slots=True)
class RefineConfig:
    """How the chosen images are matched to the real ones (docs/method.md)."""

    enabled: bool = True
    """Off: the chosen images are the result."""
    start: Literal["auto", "generated", "real"] = "auto"
    """`auto`: the chosen images and k-medoids of real ones are refined alike, and the real ones
    are kept where they are better on validation beyond chance; `generated`, `real`: that start
    alone may be kept."""
    objective: Literal["clusters", "dc", "dsa", "dm", "idm", "idc", "dream", "pdd"] = "clusters"
    """`clusters`: the means of each class and of each cluster around a synthetic image, seen by
    proxies. The others are published methods (`robust.methods`), with Adam and the steps and rate
    given here; whether images are packed is said by `parameterisation`."""
    parameterisation: Literal["pixels", "multi_formation", "latent"] = "pixels"
    """What moves. `multi_formation`: images that hold several pictures each, which students cut out
    and enlarge. `latent`: latents of the base's autoencoder; pixel bases have none."""
    formation_factor: int = 2
    """Pictures along each side of an image of `multi_formation`, 2 or 3."""
    robust: bool = True
    """Networks trained on real images have the group-robust objective; off: cross-entropy."""
    centralisation_weight: float = 0.0
    """Of IID's class centralisation beside any objective; published with DM: 0.05."""
    covariance_weight: float = 0.0
    """Of IID's covariance matching beside any objective; published with DM: 0.01."""
    constraint_weights: Literal["own", "paper", "code"] = field(default="own", metadata=LATER)
    """`own`: the two above. `paper`, `code`: those that IID's paper or its released code has for
    the objective, `dm` or `idm`, at this number of images per class; the two above stay 0."""
    centralisation_form: Literal["squared", "exp"] = field(default="squared", metadata=LATER)
    """Of a distance, which is `squared` in IID's code and inside `exp` in its paper."""
    centralisation_beta: float = field(default=0.0, metadata=LATER)
    """Threshold of `exp`, which is never below 1: up to 1 it has no effect."""
    centralisation_floor: float = field(default=0.0, metadata=LATER)
    """Share of the real images' mean squared distance that `squared` lets images keep."""
    num_steps: int = 120
    """Adam steps on the images."""
    learning_rate: float = 0.1
    """Of Adam, in units of the normalised image; falls to zero along a cosine."""
    reals_per_class: int = 64
    """Real samples per class and step."""
    steps_per_proxy: int = 12
    """Steps before the next proxy takes over."""
    proxy_steps: int = 60
    """Training steps of a proxy, at most."""
    youngest_proxy: float = field(default=1.0, metadata=LATER)
    """Share of these steps that the least trained proxy has; the others lie evenly between, in any
    order. 1: all have as many."""
    cluster_weight: float = CLUSTER_WEIGHT
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
        if self.start == "real" and not self.enabled:
            raise ConfigError(
                "refine.start real would be ignored without refinement: leave it out, or set "
                "refine.enabled to true (no --no-refine)"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"refine.learning_rate must be above 0, got {self.learning_rate}")
        if self.objective not in OBJECTIVES:
            choices = ", ".join(OBJECTIVES)
            raise ConfigError(f"refine.objective must be one of {choices}, got {self.objective!r}")
        if self.parameterisation not in PARAMETERISATIONS:
            raise ConfigError(
                f"refine.parameterisation must be one of {', '.join(PARAMETERISATIONS)}, "
                f"got {self.parameterisation!r}"
            )
        if self.formation_factor not in (2, 3):
            raise ConfigError(
                f"refine.formation_factor must be 2 or 3, got {self.formation_factor}"
            )
        if self.formation_factor != 2 and self.parameterisation != "multi_formation":
            raise ConfigError(
                f"refine.formation_factor {self.formation_factor} would be ignored, because images "
                "are not packed: leave it out, or ask for refine.parameterisation multi_formation"
            )
        if not 0 < self.youngest_proxy <= 1:
            raise ConfigError(
                f"refine.youngest_proxy must be above 0 and at most 1, got {self.youngest_proxy}"
            )
        _check_cluster_weight(self)
        _check_constraints(self)

    @property
    def factor(self) -> int:
        """Pictures along each side of a stored image: 1 unless refinement packs them."""
        packs = self.enabled and self.parameterisation == "multi_formation"
        return self.formation_factor if packs else 1

    @property
    def pictures_per_image(self) -> int:
        """Pictures that each stored image holds, V."""
        return self.factor**2

    @property
    def proxy_ages(self) -> list[int]:
        """Training steps of each proxy that `clusters` looks through, the oldest first."""
        count = -(-self.num_steps // self.steps_per_proxy)
        step = (self.youngest_proxy - 1) / max(1, count - 1)
        return [max(1, round(self.proxy_steps * (1 + step * i))) for i in range(count)]


def check_refinement(config: RefineConfig, images_per_class: int) -> None:
    """Raise ConfigError if the method or a constraint is not defined for so few or many images."""
    if not config.enabled:
        return
    if config.objective in ("dc", "dsa") and images_per_class not in GRADIENT_LOOPS:
        known = ", ".join(map(str, GRADIENT_LOOPS))
        raise ConfigError(
            f"{config.objective} has loops for {known} images per class, got {images_per_class}: "
            "use one of these, or another method"
        )
    if config.objective == "pdd" and images_per_class not in PROGRESSIVE_STAGES:
        known = " and ".join(map(str, PROGRESSIVE_STAGES))
        raise ConfigError(
            f"pdd has stages for {known} images per class, got {images_per_class}: use one of "
            "these, or another method"
        )
    weights = constraint_weights(config, images_per_class)
    pictures = images_per_class * config.pictures_per_image
    if pictures < 2 and (weights.centralisation or weights.covariance):
        raise ConfigError(
            "the constraints of refine need 2 or more images per class, got 1: leave "
            "refine.centralisation_weight and refine.covariance_weight at 0 and "
            "refine.constraint_weights at own, or pack several pictures into an image with "
            "refine.parameterisation multi_formation"
        )


def constraint_weights(config: RefineConfig, images_per_class: int) -> ConstraintWeights:
    """Return how much each constraint weighs: the job's own numbers, or the published ones.

    Raises:
        ConfigError: If published weights are asked for where there are none.
    """
    if config.constraint_weights == "own":
        return ConstraintWeights(config.centralisation_weight, config.covariance_weight)
    origin = config.constraint_weights
    if config.objective not in ("dm", "idm"):
        raise ConfigError(
            f"refine.constraint_weights {origin} is published beside refine.objective dm and idm, "
            f"got {config.objective}: use one of these, or give refine.centralisation_weight and "
            "refine.covariance_weight and leave refine.constraint_weights at own"
        )
    return published_weights(images_per_class, config.objective, origin=origin)


def _check_cluster_weight(config: RefineConfig) -> None:
    """Raise ConfigError for a weight of clusters that is no weight, or that no objective reads."""
    weight = config.cluster_weight
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"refine.cluster_weight must be 0 or more, got {weight}")
    if weight != CLUSTER_WEIGHT and config.objective != "clusters":
        raise ConfigError(
            f"refine.cluster_weight would be ignored by refine.objective {config.objective}: leave "
            "it out, or use the objective clusters"
        )


def _check_constraints(config: RefineConfig) -> None:
    """Raise ConfigError for numbers of the constraints that are out of range or go unread."""
    own = (config.centralisation_weight, config.covariance_weight)
    if not 0 <= min(own) or not max(own) < float("inf"):
        raise ConfigError("the weights of refine's constraints must be 0 or more")
    if not config.enabled and (config.constraint_weights != "own" or any(own)):
        raise ConfigError(
            "refine's constraints would be ignored without refinement: leave their weights out, or "
            "set refine.enabled to true (no --no-refine)"
        )
    if config.constraint_weights != "own" and any(own):
        raise ConfigError(
            f"refine.constraint_weights {config.constraint_weights} brings its own numbers: leave "
            "refine.centralisation_weight and refine.covariance_weight at 0, or "
            "refine.constraint_weights at own"
        )
    threshold = {"exp": config.centralisation_beta, "squared": config.centralisation_floor}
    if not 0 <= min(threshold.values()) or not max(threshold.values()) < float("inf"):
        raise ConfigError("refine.centralisation_beta and centralisation_floor must be 0 or more")
    for form, name in (("exp", "centralisation_beta"), ("squared", "centralisation_floor")):
        if threshold[form] and config.centralisation_form != form:
            raise ConfigError(f"refine.{name} needs refine.centralisation_form {form}")
    asked = config.centralisation_form != "squared" or any(threshold.values())
    if asked and config.constraint_weights == "own" and not config.centralisation_weight:
        raise ConfigError(
            "the form of refine's centralisation has no effect without a weight: give "
            "refine.centralisation_weight, or refine.constraint_weights paper or code"
        )


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
