"""Representative real images: those nearest to k-means centres in a network's features (DREAM).

The clusters of a class are formed anew every few iterations, with the network of the moment.
Source: Liu et al. (2023), "DREAM: Efficient Dataset Distillation by Representative Matching"; the
sizes are deduced from its text and unconfirmed. Shapes: N images of a class, D features.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from distillery.models.classifiers import Classifier
from distillery.seeds import derive_seed, torch_rng
from robust.clusters import kmeans_labels
from robust.matching_types import Batch
from robust.objectives import constant_features
from robust.refine import RealImages

RECLUSTER_EVERY = 10
"""Iterations that the representatives of a class are kept."""
MAX_CANDIDATES = 1000
"""Images of a class that are looked at each time."""


class Representatives:
    """The representatives of each class, kept for a few iterations."""

    def __init__(self, reals: RealImages, seed: int) -> None:
        self._reals, self._seed = reals, seed
        self._kept: dict[int, tuple[int, Tensor]] = {}

    def draw(self, network: Classifier, classes: Tensor, count: int, iteration: int) -> Batch:
        """Return up to `count` images of each class, one nearest to each of its centres."""
        epoch = iteration // RECLUSTER_EVERY
        picks = []
        for label in classes.tolist():
            kept = self._kept.get(label)
            if kept is None or kept[0] != epoch:
                self._kept[label] = (epoch, self._choose(network, label, count, epoch))
            picks.append(self._kept[label][1])
        indices = torch.cat(picks)
        return Batch(self._reals.images[indices], self._reals.labels[indices])

    def state(self) -> dict[str, np.ndarray]:
        """Return what is kept, by class: a later network would choose others."""
        return {
            f"representatives.{label}": np.concatenate([[epoch], picks.cpu().numpy()])
            for label, (epoch, picks) in self._kept.items()
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` returned."""
        prefix, device = "representatives.", self._reals.labels.device
        for name in (name for name in arrays if name.startswith(prefix)):
            epoch, *picks = arrays[name].tolist()
            kept = epoch, torch.tensor(picks, dtype=torch.int64, device=device)
            self._kept[int(name.removeprefix(prefix))] = kept

    def _choose(self, network: Classifier, label: int, count: int, epoch: int) -> Tensor:
        """Return the indices of the representatives of a class."""
        members = self._reals.rows_of(label)
        generator = torch_rng(self._seed, "representatives", label, epoch)
        order = torch.randperm(len(members), generator=generator)[:MAX_CANDIDATES]
        members = members[order].to(self._reals.labels.device)
        if len(members) <= count:
            return members
        parts = members.split(250)
        features = torch.cat([constant_features(network, self._reals.images[p]) for p in parts])
        seed = derive_seed(self._seed, "representatives", label, epoch)
        rows = nearest_to_centres(features.cpu().numpy(), count, seed=seed)
        return members[torch.from_numpy(rows).to(members.device)]


def nearest_to_centres(features: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return the row nearest to each of `count` k-means centres of (N, D), int64 (count,)."""
    clusters = kmeans_labels(features, count, seed=seed)
    rows = []
    for cluster in range(count):
        members = np.flatnonzero(clusters == cluster)
        if len(members):
            centre = features[members].mean(0)
            distance = np.square(features[members] - centre).sum(1)
            rows.append(members[int(distance.argmin())])
    return np.array(rows, np.int64)
