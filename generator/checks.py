"""What a plan refuses before any work: options that would be ignored, and what no job can do.

Whatever is refused here would otherwise end a job late, or be passed over without a word.
"""

from distillery.data.config import DataConfig
from distillery.errors import ConfigError, DataError
from distillery.models.config import parse_classifier_name
from distillery.wording import counted, were
from finetune.config import check_precision
from generator.base_choice import BaseChoice
from generator.config import DistillConfig
from generator.planned import Look


def check_data(config: DistillConfig, look: Look) -> None:
    """Refuse too few images, and fractions of splits that the dataset brings along.

    Raises:
        ConfigError: If a fraction would be ignored.
        DataError: If a class has too few images.
    """
    ipc, minimum = config.images_per_class, config.data.min_images_per_class
    if look.fewest_train is not None and look.fewest_train[1] < minimum:
        name, count = look.fewest_train
        advice = f", or allow it with --set data.min_images_per_class={count}" if count else ""
        raise DataError(
            f"every class needs {counted(minimum, 'training image')}, class {name!r} has {count} "
            f"once validation and test are set apart: add images, or remove the class{advice}"
        )
    if ipc > look.smallest_class:
        raise DataError(
            f"{counted(ipc, 'image')} per class {were(ipc)} asked for, but the smallest of the "
            f"{len(look.class_names)} classes has only "
            f"{counted(look.smallest_class, 'training image')}: use --ipc {look.smallest_class} or "
            "less"
        )
    for split in sorted(look.given_splits & {"test", "validation"}):
        field = f"{split}_fraction"
        if getattr(config.data, field) != getattr(DataConfig(), field):
            raise ConfigError(
                f"data.{field} would be ignored, because the dataset has its own {split} split: "
                "leave it out"
            )


def check_base(asked: DistillConfig, choice: BaseChoice) -> None:
    """Refuse a revision of a base that has none.

    Raises:
        ConfigError: If it would be ignored.
    """
    if asked.base.revision is not None and choice.revision is None:
        raise ConfigError(
            f"--revision {asked.base.revision} would be ignored, because the base is no model of "
            "the Hub: leave it out, or name a Hub id with --base"
        )


def check_device(config: DistillConfig) -> None:
    """Refuse a precision of fine-tuning that the job's device lacks.

    Raises:
        ConfigError: If fine-tuning would end the job for it.
    """
    if config.finetune.enabled:
        check_precision(config.finetune.precision, config.device or "cpu")


def check_networks(config: DistillConfig) -> None:
    """Refuse networks that are too deep for the images.

    Raises:
        ConfigError: With the field and the deepest that fits.
    """
    named = {
        "proxy.network": config.proxy.network,
        "evaluate.student.network": config.evaluate.student.network,
    }
    size = config.image_size or 8
    for field, name in named.items():
        network = parse_classifier_name(name)
        if network.family == "convnet" and size >> network.depth < 1:
            raise ConfigError(
                f"{field} {name} does not fit images of {size} px: use a depth of "
                f"{size.bit_length() - 1} or less"
            )


def check_start(config: DistillConfig, look: Look) -> None:
    """Refuse a real start of packed images that the smallest class has too few images for.

    Raises:
        ConfigError: If nothing else may be refined.
    """
    count = config.images_per_class * config.refine.pictures_per_image
    if config.refine.start == "real" and count > look.smallest_class:
        raise ConfigError(
            f"a real start takes {count} training images of every class, one for each picture, "
            f"and the smallest class has {look.smallest_class}: use fewer images per class"
            + (", refine.formation_factor 2" if config.refine.factor > 2 else "")
            + ", or leave refine.start at auto"
        )


def check_parameterisation(config: DistillConfig, choice: BaseChoice) -> None:
    """Refuse a parameterisation of refine that this base or pool cannot give.

    Raises:
        ConfigError: If there is no autoencoder, or there are too few candidates to pack.
    """
    refine, oversample = config.refine, config.generate.oversample
    if refine.enabled and refine.parameterisation == "latent" and choice.kind == "pixel":
        raise ConfigError(
            "refine.parameterisation latent needs a base with an autoencoder, but a pixel base "
            "works on the images themselves: name a latent --base, or leave it at pixels"
        )
    if oversample is not None and oversample < refine.pictures_per_image:
        raise ConfigError(
            f"packed images hold {refine.pictures_per_image} pictures each, so "
            f"generate.oversample must be {refine.pictures_per_image} or more, got {oversample}"
        )
