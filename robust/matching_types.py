"""What matching is made of: batches, objectives, constraints, parameterisations, methods.

An objective looks at one network, a real and a synthetic batch and says how far they are apart; a
constraint has the same form and is added with its weight; a parameterisation says what is stored
and how images come out of it. Shapes: N images, P stored parameters, V views of each, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from distillery.data.augment import AugmentConfig
from distillery.models.classifiers import Classifier
from robust.objective import GroupRobust


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one step, of one class or of several, augmented where the method asks for it."""

    images: Tensor
    """Normalised float images, (N, C, H, W); real ones carry no gradient, synthetic ones do."""
    labels: Tensor
    """int64 (N,) in [0, K)."""
    step: int = 0
    """Of synthetic images: the step of the run, for what is drawn anew in each."""

    def of_class(self, label: int) -> Tensor:
        """Return the images of one class, (n, C, H, W)."""
        return self.images[self.labels == label]

    def classes(self) -> list[int]:
        """Return the labels that occur, in order."""
        return [int(label) for label in self.labels.unique()]


Objective = Callable[[Classifier, Batch, Batch, int], Tensor]
"""(network, real batch, synthetic batch, K) -> scalar loss, a sum over the classes present."""
Constraint = Objective


@dataclass(frozen=True, slots=True)
class WeightedConstraint:
    """A constraint beside the objective."""

    name: str
    """What progress, results and errors call it."""
    weight: float
    term: Constraint
    by_accuracy: bool = False
    """The weight is times the accuracy in training, in per cent, of the network looked through: one
    that knows nothing has no say."""


class Parameterisation(Protocol):
    """What is optimised in place of plain images."""

    @property
    def views(self) -> int:
        """V: images that one stored parameter decodes to; they follow each other."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Return the parameters to start from, (P, ...), for normalised images.

        `images` is (P * V, C, H, W) where each view has its own picture (multi-formation packs V
        images into one), in the order in which `decode` returns them.
        """
        ...

    def decode(self, parameters: Tensor) -> Tensor:
        """Return normalised images (P * V, C, H, W), differentiable in `parameters` (P, ...)."""
        ...

    def project(self, parameters: Tensor) -> None:
        """Bring `parameters` back, in place and without gradient, to what can be stored."""
        ...

    def store(self, parameters: Tensor) -> Tensor:
        """Return what counts as the distilled set, normalised images (P, C, H, W)."""
        ...


NetworkSource = Literal["random", "trained_along", "queue", "trained"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """Where the networks come from that a method looks through, and how they are trained."""

    source: NetworkSource = "random"
    """`random`: fresh weights each iteration (DM). `trained_along`: trained on the synthetic set
    between steps (DC, DSA). `queue`: a queue of networks trained on real data, the oldest of which
    leaves when it is full (IDM). `trained`: one at a time, trained on real data between steps
    (IDC)."""
    robust: GroupRobust | None = None
    """Of training on real data: the group-robust objective, with clusters of real samples around
    the present synthetic ones; None: cross-entropy."""
    renew_every: int = 1
    """Iterations before a fresh network takes over (`trained_along`: the outer loop)."""
    warmup_steps: int = 0
    """Training steps of a fresh network before it is looked through. `trained_along` in a method of
    several stages: on the images of the earlier ones."""
    steps: int = 0
    """Training steps between iterations (`trained_along`: epochs of the synthetic images, the inner
    loop)."""
    trained_per_iteration: int = 1
    """Networks of the queue that are trained so, each iteration."""
    queue_start: int = 3
    """Networks of the queue before the first iteration, which adds one."""
    queue_size: int = 100
    queue_every: int = 30
    """Iterations before the queue gets another network."""
    batch_size: int = 256
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    augmentation: AugmentConfig | None = None
    """Of the images that networks are trained on, an own draw for each image."""
    cutmix: bool = False
    """Networks are trained on CutMix of pairs of real images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A row of the tables: what is matched, on which networks, how the images move."""

    name: str
    objective: Objective
    constraints: tuple[WeightedConstraint, ...] = ()
    networks: NetworkPlan = NetworkPlan()
    augmentation: AugmentConfig | None = None
    """One draw per class and step, shared by real and synthetic images; None: none."""
    factor: int = 1
    """Pictures along each side of a stored image (multi-formation, IDM's partition)."""
    start: Literal["real", "noise"] = "real"
    """What the images begin as, where the method says it."""
    sampling: Literal["random", "representative"] = "random"
    """Of real images: at random, or those nearest to k-means centres (DREAM)."""
    reals_per_class: int = 256
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 1.0
    """Of the images."""
    momentum: float = 0.5
    """Of SGD."""
    decay: Literal["none", "cosine"] = "none"
    """Whether the images' learning rate falls towards zero along the budget."""
    stages: int = 1
    """Equal parts of the budget; each moves an equal share of every class's images, while those of
    earlier stages stay as they are (PDD). Images of later ones are not looked at yet."""
    num_iterations: int = 20_000
    """Of the published schedule; a budget may end sooner."""
