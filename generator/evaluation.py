"""A protocol on a distilled set, from paths to the result: `distillery evaluate` without its text.

The dataset is prepared by the same stage as in a job, so a job's own dataset is in the cache
already. Finished students lie in the cache too: the same request goes on where it stopped.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distillery.data.config import DataConfig
from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.errors import ConfigError, DataError, JobError
from distillery.evaluation.inputs import Inputs, Split, Target, Work
from distillery.evaluation.protocol_run import run_protocol
from distillery.evaluation.protocols import Case, Protocol
from distillery.evaluation.setting import Overrides, Setting, resolve
from distillery.evaluation.teacher import TEACHER_RECIPE, own_teacher
from distillery.files import digest_json
from distillery.machine import Machine, use_device, use_threads
from distillery.models.classifiers import build_classifier
from distillery.progress import OnProgress
from generator.config import DistillConfig
from generator.defaults import default_threads
from generator.distilled_set import (
    DistilledSet,
    data_config,
    facts_of,
    fitted_set,
    match_classes,
)
from generator.entries import EVALUATIONS, lock_of, note_use, take_within
from generator.public_names import public_name
from generator.stage import run_stage
from generator.stages import prepare

VERSION = 2
"""Raised by hand when the same request gives other figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be evaluated."""

    protocol: Protocol
    overrides: Overrides = Overrides()
    dataset: str | None = None
    """Whose test split judges; None: the one that the set was made from."""
    target: str | None = None
    """The second dataset, of protocols that need one."""
    teacher: Literal["train", "bundle"] | None = None
    """Soft labels: of a teacher trained here, or those in the bundle; None: train one."""
    teacher_epochs: int | None = None
    flip: bool | None = None
    seed: int = 0
    keep_best: bool = False
    allow_download: bool = False
    num_threads: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no evaluation can use."""
        protocol = self.protocol
        if protocol.needs_target and self.target is None:
            raise ConfigError(
                f"{protocol.name} needs a second dataset of other classes: name it with --target"
            )
        if self.target is not None and not protocol.needs_target:
            raise ConfigError(f"{protocol.name} has no second dataset: leave --target out")
        if self.teacher is not None and protocol.labels != "soft":
            raise ConfigError(f"{protocol.name} has hard labels: leave --teacher out")
        is_trained = protocol.labels == "soft" and self.teacher != "bundle"
        if self.teacher_epochs is not None and not is_trained:
            raise ConfigError(f"{protocol.name} trains no teacher here: leave --teacher-epochs out")
        if self.keep_best and protocol.task not in ("accuracy", "ratios"):
            raise ConfigError(f"{protocol.name} has no best epoch: leave --best out")
        if self.teacher_epochs is not None and self.teacher_epochs < 1:
            raise ConfigError(f"--teacher-epochs must be 1 or more, got {self.teacher_epochs}")


def fit(distilled: DistilledSet, request: Request) -> Setting:
    """Return the protocol fitted to the set.

    Raises:
        ConfigError: If the protocol says nothing of such a set, or it lacks soft labels.
    """
    if request.teacher == "bundle" and distilled.teacher_logits is None:
        raise ConfigError(
            f"{distilled.name} has no soft labels: use --teacher train, which trains a teacher on "
            "the train split of --dataset"
        )
    case = Case(
        images_per_class=distilled.images_per_class, num_classes=len(distilled.classes),
        image_size=int(distilled.images.shape[-1]), channels=int(distilled.images.shape[1]),
    )  # fmt: skip
    setting = resolve(request.protocol, case, request.overrides, flip=request.flip)
    check_networks(setting)
    if request.protocol.labels == "soft":
        setting = replace(
            setting, deviations=(*setting.deviations, _teacher_deviation(setting, request))
        )
    return setting


def check_networks(setting: Setting) -> None:
    """Build every network without its weights, so that one that does not fit fails early.

    Raises:
        ConfigError: If a network does not fit the images.
    """
    case = setting.case
    for name in setting.recipes:
        try:
            with torch.device("meta"):
                build_classifier(name, case.channels, case.image_size, case.num_classes, 0)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error


def _teacher_network(setting: Setting, request: Request) -> str | None:
    """Return the architecture of a teacher that is trained here, the first of the networks."""
    if setting.protocol.labels != "soft" or request.teacher == "bundle":
        return None
    return next(iter(setting.recipes))


def _teacher_deviation(setting: Setting, request: Request) -> str:
    """Return how the teacher is not the published one."""
    if request.teacher == "bundle":
        return "the bundle's soft labels of whole images in place of a teacher asked at each batch"
    epochs = request.teacher_epochs or TEACHER_RECIPE.num_epochs
    return f"a {_teacher_network(setting, request)} trained here for {epochs} epochs as teacher"


def evaluate(
    distilled: DistilledSet,
    setting: Setting,
    request: Request,
    *,
    cache: Path,
    machine: Machine,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Return the result of a protocol on a set, as JSON values.

    Args:
        distilled: The set.
        setting: See `fit`.
        request: What was asked.
        cache: Where prepared datasets and finished students are kept.
        machine: Where this runs.
        on_progress: Told of the work; may raise `Cancelled`.

    Raises:
        DataError: If dataset and set do not fit each other.
        JobError: If another process does the same.
        TrainingError: If a student's loss stops being finite.
    """
    threads = request.num_threads or default_threads(machine.num_cores, setting.case.image_size)
    device = _device(request, machine)
    use_threads(threads)
    use_device(device)
    data = data_config(distilled, request.dataset, allow_download=request.allow_download)
    dataset = _prepared(data, setting, cache, on_progress)
    labels, note = match_classes(distilled.classes, dataset.class_names)
    train = _split(dataset, "train", setting)
    inputs = Inputs(
        distilled=fitted_set(distilled, labels, setting.case.image_size),
        normalisation=measure_normalisation(train[0]), num_classes=len(dataset.class_names),
        test=_split(dataset, "test", setting), train=train,
        target=_target(request, dataset, setting, cache, on_progress),
    )  # fmt: skip
    folder = (
        cache
        / EVALUATIONS
        / _key(distilled, dataset, inputs.target, setting, request, threads, device)[:16]
    )
    workers = 1 if device == "cuda" else max(1, machine.num_cores // threads)
    work = Work(
        setting=setting, inputs=inputs, store=folder / "students.json", seed=request.seed,
        num_workers=workers, device=torch.device(device), keep_best=request.keep_best,
        on_progress=on_progress,
    )  # fmt: skip
    with _Locked(folder):  # makes the folder
        result = run_protocol(_with_teacher(work, request, folder))
    facts = {"set": dict(facts_of(distilled)), "dataset": _dataset_facts(data, dataset)}
    notes = _notes(distilled, note)
    return result | facts | {"notes": notes, "seed": request.seed}


def _notes(distilled: DistilledSet, of_classes: str | None) -> list[str]:
    """Return what a reader of the result must know of the set."""
    notes = [of_classes] if of_classes else []
    if distilled.fewest_per_class < distilled.images_per_class:
        notes.append("classes have unequal numbers of images; the protocol follows the largest")
    if distilled.pictures_per_image > 1:
        notes.append(
            f"each stored image holds {distilled.pictures_per_image} pictures, which students see "
            "one by one; the protocol follows the number of stored images"
        )
    return notes


def _device(request: Request, machine: Machine) -> str:
    if request.device == "cuda" and machine.gpu is None:
        raise ConfigError("device cuda was asked for, but torch sees no GPU here: use device cpu")
    return request.device or ("cuda" if machine.gpu else "cpu")


def _prepared(data: DataConfig, setting: Setting, cache: Path, on_progress: OnProgress) -> Dataset:
    """Return a dataset decoded at the size of the test images, from the cache if it is there."""
    config = DistillConfig(data=data, image_size=setting.test_size, channels=setting.case.channels)
    done = run_stage(prepare.STAGE, config, {}, root=cache, on_progress=on_progress)
    return Dataset.load(done.folder)


def _split(dataset: Dataset, name: str, setting: Setting) -> Split:
    """Return a split at the size that students see: the centre of the prepared images."""
    images, labels = dataset.split(name)
    size = setting.case.image_size
    start = (images.shape[-1] - size) // 2
    centre = images[:, :, start : start + size, start : start + size]
    return np.ascontiguousarray(centre), labels


def _target(
    request: Request, dataset: Dataset, setting: Setting, cache: Path, on_progress: OnProgress
) -> Target | None:
    """Return the second dataset, whose classes must be others than the first one's."""
    if request.target is None:
        return None
    data = DataConfig(dataset=request.target, allow_download=request.allow_download)
    other = _prepared(data, setting, cache, on_progress)
    known = sorted(set(other.class_names) & set(dataset.class_names))
    if known and request.protocol.task == "retrieval":
        raise DataError(
            f"retrieval needs classes that no student has seen, but both datasets have {known[0]!r}"
            ": name a --target of other classes"
        )
    return Target(
        name=public_name(request.target), fingerprint=other.fingerprint,
        train=_split(other, "train", setting), test=_split(other, "test", setting),
        num_classes=len(other.class_names),
    )  # fmt: skip


def _key(
    distilled: DistilledSet, dataset: Dataset, target: Target | None, setting: Setting,
    request: Request, threads: int, device: str,
) -> str:  # fmt: skip
    """Return what the figures of a student depend on; networks and repeats may grow."""
    overrides, pictures = request.overrides, distilled.pictures_per_image
    packing = {"pictures": pictures} if pictures > 1 else {}
    network = _teacher_network(setting, request)
    teacher = {"teacher_network": network} if network else {}
    return digest_json(
        {
            "version": VERSION, "set": distilled.digest, "classes": list(distilled.classes),
            "dataset": dataset.fingerprint, "protocol": request.protocol.name,
            "epochs": overrides.num_epochs, "batch": overrides.batch_size, "flip": request.flip,
            "stages": overrides.num_stages, "target": target and target.fingerprint,
            "teacher": request.teacher, "teacher_epochs": request.teacher_epochs,
            **teacher,
            "seed": request.seed, "best": request.keep_best, "threads": threads, "device": device,
            **packing,
        }
    )  # fmt: skip


def _with_teacher(work: Work, request: Request, folder: Path) -> Work:
    """Return the work with a teacher, where the protocol asks one."""
    network = _teacher_network(work.setting, request)
    if network is None:
        return work
    assert work.inputs.train is not None
    epochs = request.teacher_epochs or TEACHER_RECIPE.num_epochs
    path = folder / f"teacher-{network}.safetensors"
    teacher = own_teacher(work, work.inputs.train, network, epochs, path)
    return replace(work, inputs=replace(work.inputs, teacher=teacher))


LOCK_WAIT_S = 0.5
"""Who only looks at the cache has the lock for a moment."""


class _Locked:
    """Hold the lock of a folder of students, made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        lock = take_within(lock_of(self._folder), LOCK_WAIT_S)
        if lock is None:
            raise JobError("another process does this very evaluation: wait for it")
        self._lock, self._use = lock, note_use(self._folder)
        self._folder.mkdir(exist_ok=True)

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._use is not None:
            self._use.release()


def _dataset_facts(data: DataConfig, dataset: Dataset) -> dict[str, Any]:
    """Return what a result says of the dataset."""
    return {
        "reference": public_name(data.dataset),
        "fingerprint": dataset.fingerprint,
        "num_classes": len(dataset.class_names),
        "num_train": len(dataset.indices("train")),
        "num_test": len(dataset.indices("test")),
    }
