"""A protocol fitted to a distilled set: what will be done, and where it is not what was published.

No torch: the API process validates with this file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from distillery.errors import ConfigError
from distillery.evaluation.protocols import (
    BUFFER_SIZE,
    CONVNET,
    FINE_TUNING,
    STAGES,
    Case,
    Protocol,
    Recipe,
    fine_tuning,
    published_convnet,
)
from distillery.models.config import check_classifier_name
from distillery.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """What a user changes of a protocol; None and empty: nothing."""

    networks: tuple[str, ...] = ()
    num_epochs: int | None = None
    num_repeats: int | None = None
    batch_size: int | None = None
    num_stages: int | None = None
    """Of continual learning, in place of 5."""

    def __post_init__(self) -> None:
        """Refuse what no student can use."""
        for name in self.networks:
            check_classifier_name(name)
        if len(set(self.networks)) < len(self.networks):
            raise ConfigError(f"each network can be named once, got {', '.join(self.networks)}")
        for name in ("num_epochs", "num_repeats", "batch_size", "num_stages"):
            value = getattr(self, name)
            if value is not None and value < 1:
                text = {"num_stages": "steps"}.get(name, name.removeprefix("num_"))
                raise ConfigError(f"{text} must be 1 or more, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A protocol fitted to a set: what will be done, and where that is not what was published."""

    protocol: Protocol
    case: Case
    """With the image size that students see."""
    recipes: Mapping[str, Recipe]
    """How the students of each network are trained, in the order of the table."""
    num_repeats: int
    flip: bool
    """Whether augmentation may mirror images."""
    num_stages: int
    """In how many steps continual learning brings the classes."""
    deviations: tuple[str, ...]
    """What differs from the published protocol, a phrase each; empty: nothing."""

    @property
    def test_size(self) -> int:
        """Side that test images are decoded at, before the centre crop."""
        size = self.case.image_size
        return max(size, size // 7 * 8) if self.protocol.crops_test else size


def resolve(
    protocol: Protocol, case: Case, overrides: Overrides | None = None, *, flip: bool | None = None
) -> Setting:
    """Return a protocol fitted to a set.

    Args:
        protocol: See `find_protocol`.
        case: The set, at its own image size.
        overrides: What the user changes.
        flip: Whether a mirrored image is as good; None: yes for colour images.

    Raises:
        ConfigError: If the protocol says nothing of a set of this kind.
    """
    overrides = overrides or Overrides()
    size = min(case.image_size, protocol.max_image_size or case.image_size)
    case = replace(case, image_size=size)
    flip = case.channels == 3 if flip is None else flip
    published = tuple(
        published_convnet(size) if name == CONVNET else name for name in protocol.networks
    )
    recipes, changes = {}, []
    for network in overrides.networks or published:
        recipes[network], found = _fit(protocol, case, network, overrides)
        changes += [text for text in found if text not in changes]
    repeats = overrides.num_repeats or protocol.num_repeats
    if set(recipes) - set(published):
        changes.append(f"{', '.join(recipes)} in place of {', '.join(published)}")
    if repeats != protocol.num_repeats:
        changes.append(
            f"{counted(repeats, 'student')} a network in place of {protocol.num_repeats}"
        )
    changes += _image_deviations(protocol, case, recipes, flip)
    stages = _stages(protocol, case, overrides)
    if stages not in STAGES:
        changes.append(f"classes in {stages} steps, not {' or '.join(map(str, STAGES))}")
    return Setting(
        protocol=protocol, case=case, recipes=recipes, num_repeats=repeats, flip=flip,
        num_stages=stages, deviations=tuple(changes),
    )  # fmt: skip


def _stages(protocol: Protocol, case: Case, overrides: Overrides) -> int:
    """Return in how many steps classes come: what was asked, else 5."""
    asked = overrides.num_stages
    if asked is not None and protocol.task != "continual":
        raise ConfigError(f"{protocol.name} does not bring classes in steps: leave --steps out")
    stages = asked or STAGES[0]
    if protocol.task == "continual" and stages > case.num_classes:
        raise ConfigError(
            f"{case.num_classes} classes cannot come in {stages} steps: use --steps "
            f"{case.num_classes} or fewer"
        )
    return stages


def _fit(
    protocol: Protocol, case: Case, network: str, overrides: Overrides
) -> tuple[Recipe, list[str]]:
    """Return the recipe of one network with the user's changes, and what they change."""
    changes = []
    try:
        recipe = protocol.recipe(case, network)
    except ConfigError:
        if overrides.batch_size is None:
            raise
        recipe = protocol.recipe(replace(case, images_per_class=10), network)
        changes.append(f"no batch is published for {case.images_per_class} images per class")
    asked: dict[str, Any] = {}
    for what, more, name in (("epoch", "", "num_epochs"), ("image", " a batch", "batch_size")):
        value, published = getattr(overrides, name), getattr(recipe, name)
        if value not in (None, published):
            asked[name] = value
            changes.append(f"{counted(value, what)}{more} in place of {published}")
    recipe = replace(recipe, **asked)
    tuned = fine_tuning(recipe).num_epochs
    if protocol.task == "fine-tuning" and tuned != FINE_TUNING.num_epochs:
        changes.append(
            f"{counted(tuned, 'epoch')} of fine-tuning in place of {FINE_TUNING.num_epochs}"
        )
    return recipe, changes


def _image_deviations(
    protocol: Protocol, case: Case, recipes: Mapping[str, Recipe], flip: bool
) -> list[str]:
    """Return what the images make different."""
    found = []
    if protocol.name == "hard-idc" and case.image_size != 224:
        found.append(f"images of {case.image_size} px where 224 are published")
    mirrored = any(r.augmentation in ("crop-jitter", "shuffle-crop") for r in recipes.values())
    if mirrored and not flip:
        found.append("no mirroring")
    if protocol.task == "continual" and case.images_per_class < BUFFER_SIZE:
        found.append(f"{case.images_per_class} images a class in the buffer, not {BUFFER_SIZE}")
    return found


def describe(setting: Setting) -> dict[str, Any]:
    """Return what a result says of the protocol that it was reached by, as JSON values."""
    protocol = setting.protocol
    return {
        "name": protocol.name,
        "summary": protocol.summary,
        "source": protocol.source,
        "labels": protocol.labels,
        "is_published": not setting.deviations,
        "deviations": list(setting.deviations),
        "num_repeats": setting.num_repeats,
        "flip": setting.flip,
        "num_stages": setting.num_stages if protocol.task == "continual" else None,
        "image_size": setting.case.image_size,
        "recipes": {name: asdict(recipe) for name, recipe in setting.recipes.items()},
        "figures": "of the last epoch, on the test split",
    }
