"""The published methods by name, with their settings at each number of images per class.

`method_for` gives a row of the tables; `with_constraints` and `robust_variant` change it. Sources:
Zhao et al. (2021, DC), Zhao & Bilen (2021, DSA; 2023, DM), Zhao et al. (2023, IDM), Kim et al.
(2022, IDC), Liu et al. (2023, DREAM), Chen et al. (2024, PDD); settings as their code has them
(../shared/methods.md, 6).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from distillery.data.augment import DSA, SINGLE_DSA, AugmentConfig
from distillery.errors import ConfigError
from distillery.models.classifiers import Classifier
from robust.config import GRADIENT_LOOPS, PROGRESSIVE_STAGES, RefineConfig, check_refinement
from robust.constraint_weights import ConstraintWeights
from robust.constraints import weighted_constraints
from robust.matching_types import Method, NetworkPlan, WeightedConstraint
from robust.objective import PRESETS
from robust.objectives import (
    absolute,
    cosine_rows,
    cross_entropy_term,
    distribution_matching,
    gradient_matching,
    squared,
)

METHODS = ("dc", "dsa", "dm", "idm", "idc", "dream", "pdd")
COLOUR_CROP_CUTOUT = replace(DSA, flip=False, rotate_degrees=0.0, scale=1.0)


def method_for(
    name: str, images_per_class: int, *, image_size: int = 32, pixel_std: float = 1.0
) -> Method:
    """Return a published method with its settings at this number of images per class.

    Args:
        name: One of `METHODS`.
        images_per_class: DC and DSA know 1, 10, 20, 30, 40 and 50, PDD 10 and 50.
        image_size: IDC and IDM take the settings of their large images above 64 pixels.
        pixel_std: Standard deviation of the pixels in [0, 1]. IDC moves images in [0, 1], we move
            normalised ones: for an equal step the rate is divided by its square.

    Raises:
        ConfigError: If the name is unknown, or the method says nothing for this number.
    """
    if images_per_class < 1:
        raise ConfigError(f"images per class must be 1 or more, got {images_per_class}")
    if name in ("dc", "dsa"):
        return _gradient_method(name == "dsa", images_per_class)
    if name == "pdd":
        return _progressive(images_per_class)
    if name == "dm":
        rate = 10.0 if images_per_class >= 100 else 1.0
        return Method(
            name=name, objective=distribution_matching, augmentation=SINGLE_DSA, learning_rate=rate
        )
    if name == "idm":
        return _idm(images_per_class, image_size)
    if name in ("idc", "dream"):
        return _idc(name, images_per_class, image_size, pixel_std)
    raise ConfigError(f"the method must be one of {', '.join(METHODS)}, got {name!r}")


def _gradient_method(siamese: bool, images_per_class: int) -> Method:
    """Return DC, which starts from noise, or DSA, which augments and starts from real images."""
    name: Literal["dc", "dsa"] = "dsa" if siamese else "dc"
    check_refinement(RefineConfig(objective=name), images_per_class)
    outer, inner = GRADIENT_LOOPS[images_per_class]
    plan = NetworkPlan(
        source="trained_along",
        renew_every=outer,
        steps=inner,
        augmentation=SINGLE_DSA if siamese else None,
    )
    return Method(
        name=name,
        objective=gradient_matching(cosine_rows),
        networks=plan,
        augmentation=SINGLE_DSA if siamese else None,
        start="real" if siamese else "noise",
        learning_rate=0.1,
        num_iterations=1000 * outer,
    )


def _progressive(images_per_class: int) -> Method:
    """Return PDD over DSA: each stage distils new images for networks that know the earlier ones.

    Source: Chen et al. (2024), "Data Distillation Can Be Like Vodka", section 4. Deduced and
    unconfirmed: gradient matching in place of the trajectories of its main tables; five stages; the
    loops are DSA's for the whole set, the warm-up as many steps as such a loop trains a network,
    the schedule of each stage a whole one of DSA.
    """
    check_refinement(RefineConfig(objective="pdd"), images_per_class)
    base, stages = _gradient_method(True, images_per_class), PROGRESSIVE_STAGES[images_per_class]
    warmup = base.networks.renew_every * base.networks.steps
    return replace(
        base,
        name="pdd",
        networks=replace(base.networks, warmup_steps=warmup),
        stages=stages,
        num_iterations=stages * base.num_iterations,
    )


def _idm(images_per_class: int, image_size: int) -> Method:
    """Return IDM: partitioned images, a queue of trained networks, cross-entropy beside.

    As in the released code, networks are trained on plain real images, and cross-entropy weighs as
    much as the network's accuracy in training. The released code moves the images class by class;
    here all classes take a step together.
    """
    weight = 3.0 if image_size > 64 else 0.1 if images_per_class == 50 else 0.5
    plan = NetworkPlan(
        source="queue",
        queue_every=5 if images_per_class == 1 else 30,
        steps=10,
        trained_per_iteration=2,
        momentum=0.9,
        weight_decay=5e-4,
    )
    cross_entropy = WeightedConstraint(
        "cross-entropy", weight, cross_entropy_term, by_accuracy=True
    )
    return Method(
        name="idm",
        objective=distribution_matching,
        constraints=(cross_entropy,),
        networks=plan,
        augmentation=SINGLE_DSA,
        factor=2,
        reals_per_class=5000 if images_per_class == 1 else 256,
        learning_rate=0.2,
    )


def _idc(name: str, images_per_class: int, image_size: int, pixel_std: float) -> Method:
    """Return IDC, or DREAM, which is IDC with representative real images.

    Deduced and unconfirmed: 4 training steps of 128 images between two steps of the images, about
    the 500 images of the published code; DREAM's sizes (`robust.representatives`). Left out: at
    most 128 synthetic images of a class a step, and networks that are pretrained above 64 pixels.
    """
    large = image_size > 64
    augmentation: AugmentConfig = COLOUR_CROP_CUTOUT
    plan = NetworkPlan(
        source="trained",
        renew_every=100,
        steps=4,
        batch_size=128,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation=augmentation,
        cutmix=True,
    )
    base_rate, base_size = (3e-3, 224) if large else (5e-3, 32)
    rate = base_rate * images_per_class / 10 * (image_size / base_size) ** 2
    return Method(
        name=name,
        objective=gradient_matching(absolute if large else squared, convolutions_only=True),
        networks=plan,
        augmentation=augmentation,
        factor=3 if large else 2,
        sampling="representative" if name == "dream" else "random",
        reals_per_class=128 if name == "dream" else 64,
        learning_rate=rate / pixel_std**2,
        num_iterations=(500 if large else 2000) * 100,
    )


def with_constraints(
    method: Method,
    weights: ConstraintWeights,
    network: Classifier | Callable[[], Classifier] | None,
) -> Method:
    """Return the method with constraints beside its objective (see `weighted_constraints`)."""
    added = weighted_constraints(weights, network)
    name = "+".join([method.name, *(one.name for one in added)])
    return replace(method, name=name, constraints=(*method.constraints, *added))


def robust_variant(method: Method, preset: str = "default", **changes: Any) -> Method:
    """Return the method with networks trained on real data by the group-robust objective.

    DM's networks are never trained; in its robust variant each is trained for 20 steps, then looked
    through for 10 iterations with one more step between them. DC's and DSA's are trained on the
    synthetic images; here they are trained on real ones instead, as the paper does it (for 20 steps
    where a network serves one iteration). The preset
    `reference` enlarges the batches of that training to 256 images per class. PDD keeps its stages
    alone: its networks know real images then, not those of the earlier stages. The robust loss of a
    sample needs one label, so that IDC's and DREAM's networks see no CutMix.

    Args:
        method: Any.
        preset: Of `PRESETS`.
        changes: Fields of the preset that are to be others.

    Raises:
        ConfigError: If there is no such preset.
    """
    if preset not in PRESETS:
        raise ConfigError(f"the preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    plan = replace(method.networks, robust=replace(PRESETS[preset], **changes))
    if plan.source == "random":
        plan = replace(
            plan, source="trained", warmup_steps=20, renew_every=10, steps=1, momentum=0.9,
            weight_decay=5e-4, augmentation=SINGLE_DSA,
        )  # fmt: skip
    elif plan.source == "trained_along":
        # where each network is looked through once, none would be trained between iterations
        warmup = 20 if plan.renew_every == 1 else 0
        plan = replace(plan, source="trained", warmup_steps=warmup, momentum=0.9, weight_decay=5e-4)
    return replace(method, name=f"robust {method.name}", networks=plan)
