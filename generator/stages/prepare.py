"""Stage prepare: the dataset decoded once, with splits, counts, bad files and fingerprint."""

from collections.abc import Mapping
from typing import Any

from distillery.data.prepare import prepare_dataset
from distillery.data.sources.resolve import open_source
from distillery.data.sources.stamp import source_stamp
from distillery.errors import DataError
from distillery.files import expand_user
from distillery.wording import counted, were
from generator.config import DistillConfig, to_dict
from generator.stage import Context, Stage, StageOutput


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return what the prepared files depend on, the files of the dataset among it.

    A local dataset is known by its place, however its path is spelled, and by its files. The stamp
    alone would not do: two small ones of equal names, written at once, have the same sizes and
    times.
    """
    data = to_dict(config.data)
    del data["allow_download"]  # how the files came here is nothing that they depend on
    stamp = source_stamp(config.data.dataset)
    if stamp is not None:
        data["dataset"] = str(expand_user(config.data.dataset).resolve())
    return {
        "data": data,
        "source": stamp,
        "image_size": config.image_size,
        "channels": config.channels,
    }


def run(context: Context) -> StageOutput:
    """Decode and split the dataset."""
    config = context.config
    assert config.image_size is not None and config.channels is not None  # the plan filled them in
    with open_source(config.data) as source:
        facts = prepare_dataset(
            source,
            config=config.data,
            image_size=config.image_size,
            channels=config.channels,
            folder=context.folder,
            on_progress=context.on_progress,
        )
    counts = {split: sum(values) for split, values in facts["counts"].items()}
    return StageOutput(
        summary_of(facts),
        {"fingerprint": facts["fingerprint"], "counts": counts},
        facts["fingerprint"],
    )


def summary_of(facts: Mapping[str, Any]) -> str:
    """Return one line on a prepared dataset, with all that could surprise."""
    counts = {split: sum(values) for split, values in facts["counts"].items()}
    found = [
        f"{counted(sum(counts.values()), 'image')} of {len(facts['class_names'])} classes at "
        f"{facts['image_size']} px: {counts['train']} train, {counts['validation']} validation, "
        f"{counts['test']} test"
    ]
    for (split, place), finding in _leaks(facts).items():
        if finding["count"]:
            found.append(f"{counted(finding['count'], f'{split} image')} also in {place}")
    if bad := facts["bad_files"]:
        found.append(f"{counted(len(bad), 'bad file')} left out, first {bad[0]['name']}")
    return "; ".join([*found, *facts["notes"]])


def _leaks(facts: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the findings by (split, where its images also are)."""
    leaks = {(split, "train"): finding for split, finding in facts["leakage"].items()}
    return {**leaks, ("test", "validation"): facts["test_repeats"]["validation"]}


def check_images_per_class(
    counts: list[int], class_names: list[str], images_per_class: int
) -> None:
    """Refuse more images per class than the smallest class has in its train split.

    Raises:
        DataError: With the class, its size and the way out.
    """
    smallest = min(range(len(counts)), key=lambda label: counts[label])
    name, count = class_names[smallest], counts[smallest]
    if not count:
        raise DataError(f"class {name!r} has no training images: add some, or remove the class")
    if images_per_class > count:
        raise DataError(
            f"{counted(images_per_class, 'image')} per class {were(images_per_class)} asked for, "
            f"but class {name!r} has only {counted(count, 'training image')}: use --ipc {count} or "
            "less"
        )


STAGE = Stage("prepare", 2, (), settings, run, is_shared=True)
