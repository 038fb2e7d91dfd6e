"""Where matching gets its networks from: fresh, trained along, a growing queue, or trained.

Every draw has its own seed path, so a resumed run meets the same networks. Those trained on real
data can be trained by the group-robust objective, whose clusters form around the synthetic images
of the moment. Shapes: B batch, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.augment import augment
from distillery.models.classifiers import Classifier, build_classifier
from distillery.seeds import derive_seed, numpy_rng, torch_rng
from robust.matching_types import Batch, NetworkPlan
from robust.moving_clusters import MAX_CLUSTERS, choose_centres, cluster_around
from robust.objective import GroupRobust
from robust.refine import RealImages


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What networks are built for and trained on."""

    network: str
    """Architecture, as `distillery.models.classifiers` spells it."""
    reals: RealImages
    num_classes: int
    seed: int
    background: Tensor | float = 0.0
    num_centres: int = MAX_CLUSTERS
    """Synthetic images of each class that clusters form around."""


class NetworkStream:
    """The networks of one run, in order of iteration. Subclasses are the sources of a plan."""

    def __init__(self, plan: NetworkPlan, surroundings: Surroundings) -> None:
        self.plan, self.around = plan, surroundings

    def at(self, iteration: int, synthetic: Callable[[], Batch]) -> Classifier:
        """Return the network of an iteration; `synthetic` gives the present images, decoded."""
        raise NotImplementedError

    def after(self, iteration: int, synthetic: Callable[[], Batch]) -> None:
        """Train what the plan trains once the images of an iteration have moved."""

    def renew(self, iteration: int) -> None:
        """Let a stage of a method of several begin with a fresh network."""

    def accuracy(self) -> float:
        """Return the accuracy in training on real images of the network last given, in per cent."""
        return 0.0

    def state(self) -> dict[str, np.ndarray]:
        """Return all weights and momenta, by name."""
        return {}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up the state that was saved."""


class RandomNetworks(NetworkStream):
    """Fresh weights every `renew_every` iterations, never trained (DM)."""

    _number = -1
    _network: Classifier

    def at(self, iteration: int, synthetic: Callable[[], Batch]) -> Classifier:
        """Return the network of an iteration."""
        number = iteration // self.plan.renew_every
        if number != self._number:
            self._number, self._network = number, build(self.around, number)
        return self._network


class TrainedNetworks(NetworkStream):
    """One network at a time, trained between steps: on real data (IDC) or the images (DC, DSA)."""

    def __init__(self, plan: NetworkPlan, surroundings: Surroundings) -> None:
        super().__init__(plan, surroundings)
        self._number = -1
        self._trainee: Trainee | None = None
        self._first = self._before = 0
        """Iteration at which this stage began, and networks that came before it."""

    def at(self, iteration: int, synthetic: Callable[[], Batch]) -> Classifier:
        """Return the network of an iteration, warmed up where it is a fresh one."""
        number = self._number_at(iteration)
        if self._trainee is None or number != self._number:
            self._number = number
            self._trainee = Trainee(self.plan, self.around, number)
            self._train(self._trainee, self.plan.warmup_steps, synthetic)
        return self._trainee.network

    def after(self, iteration: int, synthetic: Callable[[], Batch]) -> None:
        """Train on, unless the next iteration begins with a fresh network."""
        if self._trainee is not None and self._number_at(iteration + 1) == self._number:
            self._train(self._trainee, self.plan.steps, synthetic)

    def renew(self, iteration: int) -> None:
        """Let the network of this iteration be a fresh one, and count from it."""
        self._first, self._before = iteration, self._number + 1

    def _number_at(self, iteration: int) -> int:
        return self._before + (iteration - self._first) // self.plan.renew_every

    def accuracy(self) -> float:
        """Return the accuracy in training of the present network."""
        return 0.0 if self._trainee is None else self._trainee.accuracy()

    def _train(self, trainee: "Trainee", steps: int, synthetic: Callable[[], Batch]) -> None:
        if self.plan.source == "trained_along":
            images = synthetic()
            trainee.train_on(images, steps * -(-len(images.labels) // self.plan.batch_size))
        else:
            trainee.train_on_reals(steps, synthetic)

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and momenta of the network, and its place among all."""
        if self._trainee is None:
            return {}
        place = np.array([self._number, self._first, self._before])
        return self._trainee.state("network.") | {"network_place": place}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up the network that was saved."""
        if "network_place" in arrays:
            self._number, self._first, self._before = map(int, arrays["network_place"])
            self._trainee = Trainee(self.plan, self.around, self._number)
            self._trainee.load("network.", arrays)


class NetworkQueue(NetworkStream):
    """Networks of all ages, a few of them trained on after each iteration (IDM).

    Every `queue_every` iterations a fresh one joins; of a full queue the oldest leaves.
    """

    def __init__(self, plan: NetworkPlan, surroundings: Surroundings) -> None:
        super().__init__(plan, surroundings)
        self._queue: dict[int, Trainee] = {}
        """By number, which counts all that ever joined; the oldest is the first."""
        self._joined = 0
        self._given: Trainee | None = None

    def at(self, iteration: int, synthetic: Callable[[], Batch]) -> Classifier:
        """Return a random network of the queue as it is at an iteration."""
        while self._joined < self.plan.queue_start + iteration // self.plan.queue_every + 1:
            if len(self._queue) == self.plan.queue_size:
                del self._queue[min(self._queue)]
            fresh = Trainee(self.plan, self.around, self._joined)
            fresh.train_on_reals(self.plan.warmup_steps, synthetic)
            self._queue[self._joined] = fresh
            self._joined += 1
        rng = numpy_rng(self.around.seed, "queue-pick", iteration)
        self._given = self._queue[int(rng.choice(list(self._queue)))]
        return self._given.network

    def after(self, iteration: int, synthetic: Callable[[], Batch]) -> None:
        """Train a few networks of the queue on, no two the same."""
        rng = numpy_rng(self.around.seed, "queue-train", iteration)
        count = min(self.plan.trained_per_iteration, len(self._queue))
        for number in rng.choice(list(self._queue), count, replace=False):
            self._queue[int(number)].train_on_reals(self.plan.steps, synthetic)

    def accuracy(self) -> float:
        """Return the accuracy in training of the network last given."""
        return 0.0 if self._given is None else self._given.accuracy()

    def state(self) -> dict[str, np.ndarray]:
        """Return weights and momenta of the whole queue."""
        arrays = {
            "queue_numbers": np.array(list(self._queue), np.int64),
            "queue_joined": np.array(self._joined),
        }
        for number, trainee in self._queue.items():
            arrays |= trainee.state(f"queue.{number}.")
        return arrays

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up the queue that was saved."""
        self._queue = {}
        self._joined = int(arrays.get("queue_joined", 0))
        for number in np.asarray(arrays.get("queue_numbers", ()), np.int64).tolist():
            self._queue[number] = Trainee(self.plan, self.around, number)
            self._queue[number].load(f"queue.{number}.", arrays)


def open_networks(plan: NetworkPlan, surroundings: Surroundings) -> NetworkStream:
    """Return the stream of networks that a plan describes."""
    streams = {
        "random": RandomNetworks, "trained_along": TrainedNetworks, "trained": TrainedNetworks,
        "queue": NetworkQueue,
    }  # fmt: skip
    return streams[plan.source](plan, surroundings)


def build(around: Surroundings, number: int) -> Classifier:
    """Return the untrained network of a number, on the device of the real images."""
    images = around.reals.images
    network = build_classifier(
        around.network, channels=images.shape[1], image_size=images.shape[-1],
        num_classes=around.num_classes, seed=derive_seed(around.seed, "matching-network", number),
    ).to(images.device)  # fmt: skip
    if images.device.type == "cpu" and network.prefers_channels_last:  # a third faster
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class Trainee:
    """A network in training: weights, momenta, and how many steps it has had."""

    def __init__(self, plan: NetworkPlan, around: Surroundings, number: int) -> None:
        self.network = build(around, number)
        self._plan, self._around = plan, around
        self._seed = derive_seed(around.seed, "trainee", number)
        self._steps_done = 0
        self._right = torch.zeros((), dtype=torch.int64, device=around.reals.labels.device)
        self._seen = 0
        self._real_batch, self._running = plan.batch_size, None
        if plan.robust is not None:
            self._real_batch = plan.robust.batch_size(plan.batch_size, around.num_classes)
            num_clusters = around.num_classes * around.num_centres
            self._running = plan.robust.start(num_clusters, around.reals.labels)
        self._optimizer = torch.optim.SGD(
            self.network.parameters(), plan.learning_rate, plan.momentum,
            weight_decay=plan.weight_decay,
        )  # fmt: skip

    def train_on(self, images: Batch, steps: int) -> None:
        """Train on synthetic images by plain cross-entropy; where there are none, not at all."""
        for _ in range(steps if len(images.labels) else 0):
            generator = torch_rng(self._seed, "batch", self._steps_done)
            size = min(self._plan.batch_size, len(images.labels))
            picks = torch.randperm(len(images.labels), generator=generator)[:size]
            picks = picks.to(images.labels.device)
            batch = self._augmented(images.images[picks], generator)
            self._step(F.cross_entropy(self.network(batch), images.labels[picks]))

    def train_on_reals(self, steps: int, synthetic: Callable[[], Batch]) -> None:
        """Train on real images by the plan's objective."""
        robust, centres = self._plan.robust, None
        if robust is not None and steps:
            draw = 0 if robust.memory else self._steps_done  # a cluster with a past stays itself
            seed = derive_seed(self._seed, "centres", draw)
            centres = _centres(synthetic(), self._around.num_centres, seed)
        for _ in range(steps):
            generator = torch_rng(self._seed, "batch", self._steps_done)
            images, labels = self._draw(generator)
            images = self._augmented(images, generator)
            if robust is not None and centres is not None and self._steps_done % robust.every == 0:
                self._step(self._robust_loss(robust, Batch(images, labels), centres))
            elif self._plan.cutmix:
                self._step(self._cutmix_loss(images, labels, generator))
            else:
                logits = self.network(images)
                self._count(logits, labels)
                self._step(F.cross_entropy(logits, labels))

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a batch of real images: any, or so many of each class where the objective asks."""
        reals, robust = self._around.reals, self._plan.robust
        if robust is not None and robust.samples_per_class is not None:
            picks = self._picks_of_each_class(
                self._real_batch // self._around.num_classes, generator
            )
        else:
            picks = torch.randint(len(reals.labels), (self._real_batch,), generator=generator)
            picks = picks.to(reals.labels.device)
        return reals.images[picks], reals.labels[picks]

    def _picks_of_each_class(self, count: int, generator: torch.Generator) -> Tensor:
        """Return indices of `count` real images of each class; small classes repeat theirs."""
        reals, picks = self._around.reals, []
        for label in range(self._around.num_classes):
            members = reals.rows_of(label)
            if len(members):
                picks.append(members[torch.randint(len(members), (count,), generator=generator)])
        return torch.cat(picks).to(reals.labels.device)

    def accuracy(self) -> float:
        """Return the share of the real images seen in training that were told right, in per cent.

        Those of CutMix, which have two labels, do not count.
        """
        return 100 * int(self._right) / self._seen if self._seen else 0.0

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        self._right += (logits.detach().argmax(1) == labels).sum()
        self._seen += len(labels)

    def _robust_loss(self, robust: GroupRobust, batch: Batch, centres: Batch) -> Tensor:
        """Return the group-robust objective of a batch, clustered around the centres."""
        features = self.network.features(batch.images)
        logits = self.network.head(features)
        self._count(logits, batch.labels)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        mine = torch.isin(centres.labels, batch.labels)  # other classes have no say
        near = Batch(centres.images[mine], centres.labels[mine])
        with torch.no_grad():
            parts = near.images.split(self._real_batch)
            around = torch.cat([self.network.features(part) for part in parts])
            ids = cluster_around(
                features, batch.labels, around, near.labels,
                clusters_per_class=self._around.num_centres, min_size=robust.min_cluster_size,
            )  # fmt: skip
        return robust(
            losses, ids, num_classes=self._around.num_classes,
            clusters_per_class=self._around.num_centres, running=self._running,
        )  # fmt: skip

    def _cutmix_loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return cross-entropy where a rectangle of each image is another's, and so its label.

        Source: Yun et al. (2019), CutMix, beta 1, on every batch (methods.md 2.8).
        """
        height, width = images.shape[-2:]
        share, row, column = torch.rand(3, generator=generator).tolist()
        half = (1 - share) ** 0.5 / 2
        top, bottom = (int(min(max(row + way * half, 0), 1) * height) for way in (-1, 1))
        left, right = (int(min(max(column + way * half, 0), 1) * width) for way in (-1, 1))
        other = torch.randperm(len(images), generator=generator).to(labels.device)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[other][..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        logits = self.network(mixed)
        own = F.cross_entropy(logits, labels)
        return kept * own + (1 - kept) * F.cross_entropy(logits, labels[other])

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self._plan.augmentation is None:
            return images
        fill = self._around.background
        return augment(images, self._plan.augmentation, generator, fill=fill)

    def _step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._steps_done += 1

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        """Return weights, momenta and the steps done, each name behind `prefix`."""
        arrays = {
            prefix + "steps": np.array(self._steps_done),
            prefix + "right": np.array(int(self._right)),
            prefix + "seen": np.array(self._seen),
        }
        if self._running is not None:
            arrays[prefix + "running"] = self._running.cpu().numpy()
        for name, weight in self.network.named_parameters():
            arrays[f"{prefix}weight.{name}"] = weight.detach().cpu().contiguous().numpy()
            momentum = self._optimizer.state[weight].get("momentum_buffer")
            if momentum is not None:
                arrays[f"{prefix}momentum.{name}"] = momentum.cpu().contiguous().numpy()
        return arrays

    def load(self, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` returned."""
        self._steps_done = int(arrays[prefix + "steps"])
        self._right.fill_(int(arrays[prefix + "right"]))
        self._seen = int(arrays[prefix + "seen"])
        if self._running is not None:
            self._running.copy_(torch.from_numpy(arrays[prefix + "running"]))
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                weight.copy_(torch.from_numpy(arrays[f"{prefix}weight.{name}"]))
                if f"{prefix}momentum.{name}" in arrays:
                    momentum = torch.from_numpy(arrays[f"{prefix}momentum.{name}"])
                    self._optimizer.state[weight]["momentum_buffer"] = momentum.to(weight)


def _centres(synthetic: Batch, per_class: int, seed: int) -> Batch:
    """Return the synthetic images that clusters form around, up to so many of each class."""
    generator = torch.Generator().manual_seed(seed)
    chosen = choose_centres(synthetic.labels, per_class, generator)
    return Batch(synthetic.images[chosen], synthetic.labels[chosen])
