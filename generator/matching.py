"""Refinement by a published matching method, as a job names it; constraints beside any objective.

The job's steps, rate and real images stand in place of the published schedule, which takes hours;
Adam moves the images. Classes are taken a few at a time (docs/method.md).
"""

from dataclasses import replace

import numpy as np
import torch

from distillery.checkpoint import Checkpoint
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.training import augmentation_of
from distillery.models.classifiers import Classifier
from distillery.progress import OnProgress, Progress, ignore_progress
from distillery.seeds import derive_seed
from generator.config import DistillConfig
from generator.stages.common import Reals, fit_classifier
from robust.config import constraint_weights
from robust.constraint_weights import ConstraintWeights
from robust.constraints import weighted_constraints
from robust.distil import Budget, distil
from robust.matching_types import Method, Parameterisation, WeightedConstraint
from robust.methods import method_for, robust_variant
from robust.networks import Surroundings
from robust.refine import RealImages

CENTRALISATION_NETWORK = "resnet18-w16"
"""What class centralisation looks through: the paper's ResNet-18, a quarter as wide."""


def matched(
    images: np.ndarray, labels: np.ndarray, reals: Reals, config: DistillConfig,
    parameterisation: Parameterisation, *, seed: int, checkpoint: Checkpoint | None,
    on_progress: OnProgress,
) -> tuple[np.ndarray, list[float]]:  # fmt: skip
    """Return refined raw images (P, C, H, W) and the objective at each step.

    Args:
        images: Raw images to start from, (P * V, C, H, W).
        labels: Classes of the stored images, (P,).
        reals: The prepared dataset.
        config: The job's; `refine.objective` names a method.
        parameterisation: What moves.
        seed: Of networks, real batches and augmentation.
        checkpoint: Where the state is kept, or None.
        on_progress: Told of each step; may raise `Cancelled`.
    """
    train_images, train_labels = reals.split("train")
    around = Surroundings(
        config.proxy.network, RealImages(train_images, train_labels), reals.num_classes, seed,
        reals.normalisation.background(),
    )  # fmt: skip
    done = distil(
        method_of(reals, config, seed=seed, on_progress=on_progress),
        reals.normalised(images)[:],
        torch.from_numpy(labels).to(reals.device),
        around,
        parameterisation,
        budget=Budget(iterations=config.refine.num_steps),
        classes_per_step=config.refine.classes_per_step,
        checkpoint=checkpoint,
        on_progress=on_progress,
    )
    return reals.normalisation.to_raw(done.images).cpu().numpy(), done.losses


def method_of(
    reals: Reals, config: DistillConfig, *, seed: int, on_progress: OnProgress = ignore_progress
) -> Method:
    """Return the method that a job names, fitted to its steps, rate, networks and images."""
    refine = config.refine
    method = method_for(
        refine.objective, config.images_per_class, image_size=reals.dataset.image_size
    )
    if refine.robust and config.proxy.robust:
        method = robust_variant(
            method, tail_fraction=config.proxy.tail_fraction,
            min_cluster_size=config.proxy.min_cluster_size,
        )  # fmt: skip
    augmentation = augmentation_of(config.evaluate.student)
    asked = constraints_of(reals, config, seed=seed, on_progress=on_progress)
    plan = replace(method.networks, batch_size=config.proxy.batch_size)
    if plan.augmentation is not None:
        plan = replace(plan, augmentation=augmentation)
    return replace(
        method,
        networks=plan,
        constraints=(*method.constraints, *asked),
        augmentation=None if method.augmentation is None else augmentation,
        factor=1,
        optimiser="adam",
        learning_rate=refine.learning_rate,
        decay="cosine",
        reals_per_class=refine.reals_per_class,
    )


def constraints_of(
    reals: Reals, config: DistillConfig, *, seed: int, on_progress: OnProgress = ignore_progress
) -> tuple[WeightedConstraint, ...]:
    """Return the constraints that a job asks for; trains the network of centralisation.

    `on_progress` is told of that training in words; may raise `Cancelled`.
    """
    refine = config.refine
    weights = constraint_weights(refine, config.images_per_class)
    if weights == ConstraintWeights(0.0, 0.0):
        return ()
    network = None
    if weights.centralisation:
        network = _centralisation_network(reals, config, seed, on_progress)
    return weighted_constraints(
        weights, network, form=refine.centralisation_form, floor=refine.centralisation_floor,
        beta=refine.centralisation_beta,
    )  # fmt: skip


def _centralisation_network(
    reals: Reals, config: DistillConfig, seed: int, on_progress: OnProgress
) -> Classifier:
    """Return a ResNet-18 trained on the real images for as long as the proxy that scores."""
    recipe = StudentConfig(
        network=CENTRALISATION_NETWORK,
        num_steps=config.proxy.num_steps,
        batch_size=config.proxy.batch_size,
        learning_rate=config.proxy.learning_rate,
        augmentation=config.evaluate.student.augmentation,
    )
    images, labels = reals.split("train")
    own_seed = derive_seed(seed, "centralisation")

    def on_step(step: int) -> None:
        share = f"training the network of centralisation, {100 * step // recipe.num_steps} %"
        on_progress(Progress("refine", 0, config.refine.num_steps, share))

    network = fit_classifier(reals, images, labels, recipe, seed=own_seed, on_step=on_step)
    return network.requires_grad_(False)
