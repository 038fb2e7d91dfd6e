"""Many students, several at a time, each one's figures kept as they come.

By the job's own student, or by the published protocol that was asked for: then through the same
trials as `distillery evaluate`. Each student draws from its own seed, so their number changes no
figure.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distillery.data.decode import to_array
from distillery.evaluation.harness import (
    ImageSet,
    TestBench,
    build_bench,
    judge,
    judge_together,
    judging_steps,
)
from distillery.evaluation.inputs import Inputs, Work
from distillery.evaluation.pool import Figures, Trial, run_trials
from distillery.evaluation.setting import Setting
from distillery.evaluation.student import Teacher
from distillery.evaluation.tables import BLUR_RADIUS, student_trial
from distillery.evaluation.together import students_together
from distillery.seeds import derive_seed
from generator.config import DistillConfig
from generator.controls import LABELS
from generator.stage import Context
from generator.stages.common import Reals, device_of, num_workers

MakeSet = Callable[[int], ImageSet]
"""Number of the student -> the set it learns from; the same for all but random draws."""
MakeTrials = Callable[[str, MakeSet, range], list[Trial]]
"""(key, set, numbers of the students) -> their trainings, in the order of the students."""
STORE = "checkpoint-judged.json"


def judge_all(
    context: Context, sets: Mapping[str, Mapping[str, MakeSet]], make_trials: MakeTrials
) -> dict[tuple[str, str], list[Figures]]:
    """Return the figures of every student by (labels, name of the set), in the order of seeds.

    Args:
        context: Of the running stage; students that it has finished are not trained again.
        sets: Sets by name, by the labels that they are judged with.
        make_trials: `own_students` or `protocol_students`.
    """
    seeds = range(context.config.evaluate.num_seeds)
    trials = {
        (labels, name): make_trials(f"{labels}/{name}", make, seeds)
        for labels, named in sets.items()
        for name, make in named.items()
    }
    figures = run_trials(
        [trial for own in trials.values() for trial in own],
        store=context.folder / STORE, num_workers=num_workers(context.config),
        phase="evaluate", on_progress=context.on_progress,
    )  # fmt: skip
    return {
        which: [one for trial in own for one in _each(figures[trial.key])]
        for which, own in trials.items()
    }


def bench_of(config: DistillConfig, reals: Reals, setting: Setting | None = None) -> TestBench:
    """Return the test images at the size that students see, with groups and shifts."""
    images, labels = reals.dataset.split("test")
    is_robust = setting is not None and setting.protocol.is_robust
    return build_bench(
        images if setting is None else resized(images, setting.case.image_size), labels,
        normalisation=reals.normalisation, num_classes=reals.num_classes,
        num_groups=config.evaluate.num_groups, blur_radius=BLUR_RADIUS if is_robust else None,
        device=reals.device,
    )  # fmt: skip


def _each(figures: Figures) -> list[Figures]:
    """Return the figures of each student of a trial: those trained together are in a list."""
    return list(figures.get("students", [figures]))


def own_students(config: DistillConfig, bench: TestBench) -> MakeTrials:
    """Return trials of the job's own student, several students a trial where that pays."""
    clean = bench.views["clean"]
    size = students_together(clean.device, clean.shape[-1])

    def make_trials(key: str, make: MakeSet, numbers: range) -> list[Trial]:
        groups = [numbers[first : first + size] for first in range(0, len(numbers), size)]
        return [_own_trial(key, make, group, config, bench) for group in groups]

    return make_trials


def _own_trial(
    key: str, make: MakeSet, numbers: range, config: DistillConfig, bench: TestBench
) -> Trial:
    """Return the training of one student, or of several together."""
    student, count = config.evaluate.student, len(numbers)
    # The same seeds for every set: students differ in their images only
    seeds = [derive_seed(config.seed, "student", number) for number in numbers]

    def run(on_step: Callable[[int], None]) -> Figures:
        if count == 1:
            return judge(make(numbers[0]), bench, student, seed=seeds[0], on_step=on_step)
        sets = [make(number) for number in numbers]
        return {
            "students": judge_together(
                sets, bench, student, seeds=seeds, on_step=lambda step: on_step(count * step)
            )
        }

    name = str(numbers[0]) if count == 1 else f"{numbers[0]}-{numbers[-1]}"
    return Trial(f"{key}/{name}", count * judging_steps(student, bench), _message(key), run)


def protocol_students(
    context: Context, setting: Setting, bench: TestBench, teacher: Teacher | None
) -> MakeTrials:
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

        return Trial(f"{key}/{number}", setting.recipes[network].num_epochs, _message(key), run)

    return lambda key, make, numbers: [make_trial(key, make, number) for number in numbers]


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
