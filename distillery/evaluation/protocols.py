"""Published evaluation protocols by name: who is trained on a distilled set, how, how often.

No torch: the API process validates with this file. Sources stand at each recipe; what a protocol
leaves open is said where it is filled in. `setting.resolve` fits one to a set.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from distillery.errors import ConfigError
from distillery.models.config import parse_classifier_name

Labels = Literal["hard", "soft"]
Task = Literal["accuracy", "ratios", "retrieval", "fine-tuning", "continual"]
CONVNET = "convnet"
"""Stands for the published ConvNet of width 128, whose depth follows the image size."""
BUFFER_SIZE = 20
"""Images per class in the buffer of continual learning (IID, section 4.5)."""
STAGES = (5, 10)
"""In how many steps classes come there."""
RATIOS = (1, 10, 50, 100, 200, 400, 600, 800, 1000)
"""Images per class of the table of compression ratios (IID, table 7)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one student is trained."""

    num_epochs: int
    batch_size: int
    """Images a step; the last batch of an epoch may be smaller."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD has momentum 0.9; AdamW does not decay vectors."""
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    schedule: Literal["half", "multistep", "half-cosine"] = "half"
    """x 0.1 at half; x 0.2 at 2/3 and 5/6; or a cosine that ends at half the rate."""
    augmentation: Literal["none", "dsa", "crop-jitter", "shuffle-crop"] = "none"
    cutmix: bool = False
    temperature: float | None = None
    """Of student and teacher where labels are soft."""
    norm: Literal["instance", "batch"] = "instance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """The distilled set that a protocol is to be fitted to."""

    images_per_class: int
    num_classes: int
    image_size: int
    channels: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A named protocol, as published."""

    name: str
    summary: str
    """What it does, for the help and the result."""
    source: str
    """Paper or code that it follows."""
    recipe: Callable[[Case, str], Recipe]
    """(set, network) -> how that student is trained; raises ConfigError where not defined."""
    networks: tuple[str, ...]
    num_repeats: int
    """Students of each network."""
    task: Task = "accuracy"
    labels: Labels = "hard"
    is_robust: bool = False
    """Whether cluster-min, noise, blur and inversion stand beside the accuracy."""
    max_image_size: int | None = None
    """Larger images are scaled down to it."""
    crops_test: bool = False
    """Test images are scaled to eight sevenths of the image size (`size // 7 * 8`, so that sizes
    below 56 may stay as they are), then cropped at the centre."""
    needs_target: bool = False
    """Whether it needs a second dataset, of other classes."""


def _dsa(case: Case, network: str) -> Recipe:
    """Source: Zhao & Bilen (2021), DSA: 1000 epochs, batch 256, x 0.1 at half."""
    return Recipe(num_epochs=1000, batch_size=256, augmentation="dsa")


def _dc(case: Case, network: str) -> Recipe:
    """Source: Zhao et al. (2021), DC: the same without augmentation, 300 epochs."""
    return Recipe(num_epochs=300, batch_size=256)


def _hard_epochs(case: Case) -> int:
    """Return the epochs of MinimaxDiffusion's evaluation, by images per class."""
    table = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
    epochs = next((e for largest, e in table if case.images_per_class <= largest), 300)
    return epochs * 2 // 3 // 100 * 100 if case.num_classes == 100 else epochs


def _hard(case: Case, network: str) -> Recipe:
    """Source: Gu et al. (2024), MinimaxDiffusion's evaluation, after Kim et al. (2022), IDC."""
    many = case.num_classes > 100
    return Recipe(
        num_epochs=_hard_epochs(case), batch_size=128 if many else 64, schedule="multistep",
        learning_rate=0.1 if many else 0.01, weight_decay=1e-4 if many else 5e-4,
        augmentation="crop-jitter", cutmix=True,
    )  # fmt: skip


def _soft(case: Case, network: str) -> Recipe:
    """Source: Sun et al. (2024), RDED: temperature 20, AdamW, batches by images per class."""
    batches = {1: 10, 10: 50, 50: 100}
    if case.images_per_class not in batches:
        raise ConfigError(
            f"soft-rded defines batches for 1, 10 and 50 images per class, this set has "
            f"{case.images_per_class}: choose one with distillery evaluate --batch-size"
        )
    batch = batches[case.images_per_class] * (2 if case.num_classes in (100, 1000) else 1)
    rates = {"alexnet": 1e-4, "vgg11": 5e-4, "vit": 1e-4}
    return Recipe(
        num_epochs=300, batch_size=min(batch, case.images_per_class * case.num_classes),
        optimizer="adamw", weight_decay=0.01, schedule="half-cosine", temperature=20.0,
        learning_rate=rates.get(parse_classifier_name(network).family, 1e-3),
        augmentation="shuffle-crop", cutmix=True, norm="batch",
    )  # fmt: skip


FINE_TUNING = Recipe(num_epochs=50, batch_size=64, augmentation="dsa")
"""How students go on learning; the paper does not say, so this is ours."""


def fine_tuning(student: Recipe) -> Recipe:
    """Return how a student goes on learning: no longer than it has learnt, with its own norm."""
    epochs = min(FINE_TUNING.num_epochs, student.num_epochs)
    return replace(FINE_TUNING, num_epochs=epochs, norm=student.norm)


_ALL = (
    Protocol(
        name="dc-small", summary="small images, ConvNet, 1000 epochs with DSA", recipe=_dsa,
        source="Zhao & Bilen (2021), DSA", networks=(CONVNET,), num_repeats=20,
    ),
    Protocol(
        name="dc-small-plain", summary="small images, ConvNet, 300 epochs without augmentation",
        source="Zhao et al. (2021), DC", recipe=_dc, networks=(CONVNET,), num_repeats=20,
    ),
    Protocol(
        name="hard-idc", summary="hard labels, CutMix, crop and colour jitter, up to 3000 epochs",
        source="Gu et al. (2024), MinimaxDiffusion; Kim et al. (2022), IDC", recipe=_hard,
        networks=("resnetap10",), num_repeats=3, max_image_size=224,
    ),
    Protocol(
        name="soft-rded", summary="soft labels of a teacher that sees each batch, 300 epochs",
        source="Sun et al. (2024), RDED", recipe=_soft, networks=("resnet18",), num_repeats=3,
        labels="soft", max_image_size=224, crops_test=True,
    ),
    Protocol(
        name="robust-rdd", summary="cluster-min, noise, blur and inversion beside the accuracy",
        source="Vahidian et al. (2024), Robust Dataset Distillation; students as DSA",
        recipe=_dsa, networks=(CONVNET,), num_repeats=5, is_robust=True,
    ),
    Protocol(
        name="cross-arch", summary="one row for each of four architectures",
        source="Deng et al. (2024), IID, tables 3 and 4; students as DSA", recipe=_dsa,
        networks=(CONVNET, "alexnet", "vgg11", "resnet18"), num_repeats=5,
    ),
    Protocol(
        name="ratios", summary="the first 1, 10, ... images per class, beside random real images",
        source="Deng et al. (2024), IID, table 7; students as DSA", recipe=_dsa,
        networks=(CONVNET,), num_repeats=5, task="ratios",
    ),
    Protocol(
        name="retrieval", summary="one-shot retrieval among classes that no student has seen",
        source="Vahidian et al. (2024), appendix D.1; students as DSA", recipe=_dsa,
        networks=(CONVNET,), num_repeats=5, task="retrieval", needs_target=True,
    ),
    Protocol(
        name="fine-tuning", summary="students go on learning on another dataset",
        source="Vahidian et al. (2024), appendix D.1; its recipe is not published, here 50 epochs",
        recipe=_dsa, networks=(CONVNET,), num_repeats=5, task="fine-tuning", needs_target=True,
    ),
    Protocol(
        name="continual", summary="classes come in steps; students learn from the buffer alone",
        source="Deng et al. (2024), IID, section 4.5; students as DSA", recipe=_dsa,
        networks=(CONVNET,), num_repeats=3, task="continual",
    ),
)  # fmt: skip
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: If there is none; the choices are listed.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]


def published_convnet(image_size: int) -> str:
    """Return the ConvNet that papers use at this size: 3 blocks at 32 px, one more per doubling."""
    fitting = max(1, image_size.bit_length() - 1)
    return f"convnet-d{min(fitting, max(3, math.ceil(math.log2(image_size)) - 2))}-w128"
