"""Vision models that a user names: their features for the selection, or a teacher's logits.

Any `transformers` vision model will do, from a folder or the Hub; a teacher must know the classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.errors import ModelError
from distillery.files import expand_user
from distillery.models.class_rows import map_classes
from distillery.models.facts import read_facts
from distillery.models.hub import fetch_model, is_repo_id
from generator.bases import base_stamp
from generator.config import DistillConfig

if TYPE_CHECKING:  # plans check names without torch
    import torch

    from distillery.models.features import VisionModelFeatures

OWN_FEATURES = "proxy"
"""The selection looks at the features of the job's own proxy."""
OWN_TEACHER = "own"
"""The teacher is trained by the job itself."""


def trains_teacher(config: DistillConfig) -> bool:
    """Say whether a job has soft labels of a teacher that is trained here.

    Packed images have none: a soft label is of one picture.
    """
    label = config.label
    return label.enabled and label.teacher == OWN_TEACHER and config.refine.factor == 1


def model_files(reference: str) -> dict[str, list[str]]:
    """Return what a stage's key says of a vision model in a folder, nothing of any other.

    The same words are another model once its files are replaced.
    """
    own = reference in (OWN_FEATURES, OWN_TEACHER)
    stamp = None if own else base_stamp(reference)
    return {"model_files": stamp} if stamp is not None else {}


def find_vision_model(reference: str, *, allow_download: bool) -> Path:
    """Return the folder of a vision model: a local one, or a Hub id in the cache (or fetched).

    Raises:
        ModelError: If there is none.
    """
    folder = expand_user(reference)
    if not folder.is_dir():
        if not is_repo_id(reference):
            raise ModelError(
                f"no vision model {reference!r}: expected a folder of a transformers model, or a "
                "Hub id such as facebook/dinov2-small"
            )
        folder = fetch_model(reference, allow_download=allow_download)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{reference!r} holds no transformers model: its config.json is missing")
    return folder


def load_vision_model(
    reference: str, *, allow_download: bool, device: "torch.device"
) -> "VisionModelFeatures":
    """Return a vision model on a device.

    Raises:
        ModelError: If there is none, or it cannot be loaded.
    """
    from distillery.models.features import VisionModelFeatures

    folder = find_vision_model(reference, allow_download=allow_download)
    return VisionModelFeatures(folder).to(device)


def teacher_columns(reference: str, id2label: dict[int, str], names: Sequence[str]) -> list[int]:
    """Return which of a teacher's logits stands for each class.

    Raises:
        ModelError: If it does not know a class.
    """
    if len(id2label) >= len(names):
        mapping = map_classes(names, id2label, len(id2label))
        unknown = [n for n, kind in zip(names, mapping.origins, strict=True) if kind != "known"]
        if not unknown:
            return list(mapping.rows)
        lacking = f"it does not know {unknown[0]!r}" + ", nor others" * (len(unknown) > 1)
    else:
        lacking = f"it knows {len(id2label)} classes, the dataset has {len(names)}"
    raise ModelError(
        f"teacher {reference} does not fit the dataset: {lacking}; use "
        f"label.teacher={OWN_TEACHER}, or name the classes as its labels do"
    )


def check_vision_models(config: DistillConfig, class_names: Sequence[str]) -> None:
    """Refuse references that would fail late: no weights are read.

    Raises:
        ModelError: If a model is not there, or a teacher does not know the classes.
    """
    allowed, teacher = config.base.allow_download, config.label.teacher
    if config.select.features != OWN_FEATURES:
        find_vision_model(config.select.features, allow_download=allowed)
    if config.label.enabled and teacher != OWN_TEACHER:
        facts = read_facts(find_vision_model(teacher, allow_download=allowed) / "config.json")
        labels = {int(number): str(name) for number, name in facts.get("id2label", {}).items()}
        teacher_columns(teacher, labels, class_names)
