"""Distribution matching: how far synthetic features are from real ones, class by class.

Source: Zhao & Bilen (2023), "Dataset Condensation with Distribution Matching", Eq. 4; the cluster
term asks the same of each cluster of the class. Shapes: B real, S synthetic samples, D features.
"""

import torch
from torch import Tensor


def group_means(features: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each group (G, D), zero for an empty one, and sizes (G,)."""
    # bincount would make the host wait for a GPU, to see how long its result is
    sizes = groups.new_zeros(num_groups).index_add(0, groups, torch.ones_like(groups))
    total = features.new_zeros(num_groups, features.shape[1]).index_add(0, groups, features)
    return total / sizes.clamp(min=1)[:, None], sizes


def mean_matching_loss(
    real: Tensor, real_groups: Tensor, synthetic: Tensor, synthetic_groups: Tensor, num_groups: int
) -> Tensor:
    """Return the squared distance of group means, summed over features, averaged over groups.

    Groups are classes or clusters. A group without a real or a synthetic sample does not count.

    Args:
        real: Features of real samples, (B, D); held constant.
        real_groups: (B,) in [0, num_groups).
        synthetic: Features of synthetic samples, (S, D); the gradient flows here.
        synthetic_groups: (S,) in [0, num_groups).
        num_groups: G.
    """
    target, real_sizes = group_means(real.detach(), real_groups, num_groups)
    mean, synthetic_sizes = group_means(synthetic, synthetic_groups, num_groups)
    both = (real_sizes > 0) & (synthetic_sizes > 0)
    distance = (target - mean).square().sum(1)  # (G,)
    return torch.where(both, distance, 0).sum() / both.sum().clamp(min=1)
