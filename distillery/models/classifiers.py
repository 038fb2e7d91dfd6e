"""Classifier networks by name: students, proxies and guards, such as `convnet-d3-w128`.

The names are parsed in `config`; the networks are in `convnets`, `resnets` and `vit`.
"""

from distillery.errors import ConfigError
from distillery.models.classifier_base import Classifier, Norm
from distillery.models.config import ClassifierName, parse_classifier_name
from distillery.models.convnets import VGG11, AlexNet, ConvNet
from distillery.models.initialise import seeded_weights
from distillery.models.resnets import ResNet
from distillery.models.vit import VisionTransformer

__all__ = ["Classifier", "ConvNet", "Norm", "ResNet", "build_classifier"]


def build_classifier(
    name: str,
    channels: int,
    image_size: int,
    num_classes: int,
    seed: int,
    norm: Norm = "instance",
) -> Classifier:
    """Return an untrained classifier whose weights depend on the arguments alone.

    Args:
        name: `convnet-d{depth}-w{width}` (`-group`, `-max` behind it), `alexnet`, `vgg11`,
            `resnet10`, `resnet18`, `resnetap10`, `vit` (`-w{width}` behind any of them).
        channels: 1 or 3.
        image_size: Height and width of the images.
        num_classes: Number of logits.
        seed: Root seed of the weights; the global generator is left alone.
        norm: `instance` (the default of the papers), `batch` or `none`; AlexNet has none, the
            transformer its own.

    Raises:
        ValueError: If the name is unknown, or the network does not fit the images.
    """
    try:
        parsed = parse_classifier_name(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    with seeded_weights(seed, "classifier", name):
        return _build(parsed, channels, image_size, num_classes, norm)


def _build(
    name: ClassifierName, channels: int, image_size: int, num_classes: int, norm: Norm
) -> Classifier:
    """Return the network with weights from the global generator."""
    sizes = (channels, image_size, num_classes)
    if name.family == "convnet":
        norm = "group" if name.is_group_norm else norm
        pooling = "max" if name.is_max_pooled else "average"
        return ConvNet(name.depth, name.width, *sizes, norm, pooling)  # type: ignore[arg-type]
    if name.family == "alexnet":
        return AlexNet(name.width, *sizes)
    if name.family == "vgg11":
        return VGG11(name.width, *sizes, norm)
    if name.family == "vit":
        return VisionTransformer(*sizes, name.width)
    return ResNet(
        *sizes, name.width, norm, blocks_per_stage=2 if name.family == "resnet18" else 1,
        is_pooled=name.family == "resnetap10",
    )  # fmt: skip
