"""How much IID's two constraints weigh, as published. No torch: the API process reads this.

Source: Deng et al. (2024), "Exploiting Inter-sample and Inter-feature Relations in Dataset
Distillation" (IID), section 4.1, and its released code, which differs for IDM.
"""

from dataclasses import dataclass
from typing import Literal

from distillery.errors import ConfigError

Origin = Literal["paper", "code"]


@dataclass(frozen=True, slots=True)
class ConstraintWeights:
    """How much each constraint counts beside the matching objective."""

    centralisation: float
    covariance: float


_PAPER = {
    1: ConstraintWeights(0.05, 0.01),
    10: ConstraintWeights(0.05, 0.01),
    50: ConstraintWeights(0.003, 0.01),
}
_CODE = {"dm": ConstraintWeights(0.05, 0.01), "idm": ConstraintWeights(0.01, 0.03)}


def published_weights(
    images_per_class: int, base: str, *, origin: Origin = "paper"
) -> ConstraintWeights:
    """Return the published weights at this number of images per class.

    Args:
        images_per_class: 1, 10 or 50; the code has one pair for all of them.
        base: `dm` or `idm`, the objective that the constraints stand beside. DM has no IPC 1: a
            single sample has no spread and no covariance; IDM's expansion makes four of it.
        origin: `paper` or `code` (hard-coded there; they differ for IDM, and for DM at 50).

    Raises:
        ConfigError: If nothing is published for this pair.
    """
    if base not in _CODE or origin not in ("paper", "code"):
        raise ConfigError(
            "constraint weights are published for base dm or idm and origin paper or code, "
            f"got {base!r} and {origin!r}: name the weights yourself"
        )
    if base == "dm" and images_per_class == 1:
        raise ConfigError(
            "DM with constraints is not defined at 1 image per class, which has no spread and no "
            "covariance: use 10 or 50, or base idm, whose expansion makes four samples of an image"
        )
    if images_per_class not in _PAPER:
        raise ConfigError(
            f"constraint weights are published for {', '.join(map(str, _PAPER))} images per class, "
            f"got {images_per_class}: name the weights yourself"
        )
    return _PAPER[images_per_class] if origin == "paper" else _CODE[base]
