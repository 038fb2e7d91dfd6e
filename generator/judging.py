"""Many students, several at a time, each one's figures kept as they come.

By the job's own student, or by the published protocol that was asked for: then through the same
trials as `distillery evaluate`. Each student draws from its own seed, so their number changes no
figure.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distillery.data.decode import to_array
from distillery.evaluation.harness import ImageSet, TestBench, judge
from distillery.evaluation.inputs import Inputs, Work
from distillery.evaluation.pool import Figures, Trial, run_trials
from distillery.evaluation.setting import Setting
from distillery.evaluation.student import Teacher
from distillery.evaluation.tables import student_trial
from distillery.seeds import derive_seed
from generator.config import DistillConfig
from generator.controls import LABELS
from generator.stage import Context
from generator.stages.common import device_of, num_workers

MakeSet = Callable[[int], ImageSet]
"""Number of the student -> the set it learns from; the same for all but random draws."""
MakeTrial = Callable[[str, MakeSet, int], Trial]
"""(key, set, number of the student) -> its training."""
STORE = "checkpoint-judged.json"


def judge_all(
    context: Context, sets: Mapping[str, Mapping[str, MakeSet]], make_trial: MakeTrial
) -> dict[tuple[str, str], list[Figures]]:
    """Return the figures of every student by (labels, name of the set), in the order of seeds.

    Args:
        context: Of the running stage; students that it has finished are not trained again.
        sets: Sets by name, by the labels that they are judged with.
        make_trial: `own_students` or `protocol_students`.
    """
    seeds = range(context.config.evaluate.num_seeds)
    trials = [
        make_trial(f"{labels}/{name}/{number}", make, number)
        for labels, named in sets.items()
        for name, make in named.items()
        for number in seeds
    ]
    figures = run_trials(
        trials, store=context.folder / STORE, num_workers=num_workers(context.config),
        phase="evaluate", on_progress=context.on_progress,
    )  # fmt: skip
    return {
        (labels, name): [figures[f"{labels}/{name}/{number}"] for number in seeds]
        for labels, named in sets.items()
        for name in named
    }


def own_students(config: DistillConfig, bench: TestBench) -> MakeTrial:
    """Return trials of the job's own student."""
    student = config.evaluate.student

    def make_trial(key: str, make: MakeSet, number: int) -> Trial:
        # The same seed for every set: students differ in their images only
        seed = derive_seed(config.seed, "student", number)

        def run(on_step: Callable[[int], None]) -> Figures:
            return judge(make(number), bench, student, seed=seed, on_step=on_step)

        return Trial(key, student.num_steps, _message(key), run)

    return make_trial


def protocol_students(
    context: Context, setting: Setting, bench: TestBench, teacher: Teacher | None
) -> MakeTrial:
    """Return trials of the students of a published protocol."""
    config = context.config
    nothing = np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64)
    inputs = Inputs(
        distilled=ImageSet(*nothing), test=nothing, normalisation=bench.normalisation,
        num_classes=bench.num_classes, teacher=teacher,
    )  # fmt: skip
    work = Work(
        setting=setting, inputs=inputs, store=context.folder / STORE, seed=config.seed,
        device=device_of(config), on_progress=context.on_progress,
    )  # fmt: skip
    network = next(iter(setting.recipes))

    def make_trial(key: str, make: MakeSet, number: int) -> Trial:
        def run(on_step: Callable[[int], None]) -> Figures:
            image_set = resized_set(make(number), setting.case.image_size)
            trial = student_trial(work, bench, image_set, network, number, name=key)
            return trial.run(on_step)

        return Trial(key, setting.recipes[network].num_epochs, _message(key), run)

    return make_trial


def resized_set(image_set: ImageSet, image_size: int) -> ImageSet:
    """Return a set at the size that the students of a protocol see."""
    images = resized(image_set.images, image_size)
    return ImageSet(images, image_set.labels, image_set.teacher_logits)


def resized(images: np.ndarray, image_size: int) -> np.ndarray:
    """Return raw images (N, C, H, W) at another size (Lanczos), as they are where it is theirs."""
    if images.shape[-1] == image_size:
        return images
    channels = images.shape[1]
    return np.stack([to_array(i, image_size=image_size, channels=channels) for i in images])


def _message(key: str) -> str:
    """Return what a student's training is called."""
    name: Any = key.split("/")[1]
    return f"students of {LABELS[name]}"
