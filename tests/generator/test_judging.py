"""Students of a set: one after another on a CPU; together they have the same figures and seeds."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distillery.data.normalise import measure_normalisation
from distillery.errors import Cancelled
from distillery.evaluation.config import EvaluateConfig, StudentConfig
from distillery.evaluation.harness import ImageSet, TestBench, build_bench
from distillery.files import read_json
from distillery.progress import Progress, ignore_progress
from generator import judging
from generator.config import DistillConfig
from generator.judging import STORE, judge_all, own_students

STUDENT = StudentConfig(network="convnet-d1-w8", num_steps=5, learning_rate=1e-3)
CONFIG = replace(DistillConfig(device="cpu"), evaluate=EvaluateConfig(student=STUDENT, num_seeds=3))


@pytest.fixture
def material() -> tuple[ImageSet, TestBench]:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = generator.integers(0, 100, (40, 1, 8, 8), dtype=np.uint8)
    images[labels == 1, :, :4] += 100
    bench = build_bench(
        images, labels, normalisation=measure_normalisation(images), num_classes=2, num_groups=0,
        shifts=False,
    )  # fmt: skip
    return ImageSet(images[:10], labels[:10]), bench


def judged(folder: Path, material: tuple[ImageSet, TestBench], on_progress=ignore_progress) -> Any:
    image_set, bench = material
    context: Any = SimpleNamespace(config=CONFIG, folder=folder, on_progress=on_progress)
    sets = {"hard": {"ours": lambda _: image_set}}
    return judge_all(context, sets, own_students(CONFIG, bench))


def test_on_a_cpu_each_student_is_a_trial_of_its_own(tmp_path: Path, material) -> None:
    figures = judged(tmp_path, material)
    kept = read_json(tmp_path / STORE)
    assert list(kept) == ["hard/ours/0", "hard/ours/1", "hard/ours/2"]
    assert figures["hard", "ours"] == list(kept.values())


def test_students_that_are_trained_together_have_the_same_figures(
    tmp_path: Path, material, monkeypatch
) -> None:
    alone = judged(tmp_path, material)["hard", "ours"]
    (tmp_path / STORE).unlink()
    monkeypatch.setattr(judging, "students_together", lambda device, image_size: 2)
    told: list[Progress] = []
    together = judged(tmp_path, material, told.append)["hard", "ours"]
    assert list(read_json(tmp_path / STORE)) == ["hard/ours/0-1", "hard/ours/2"]
    assert [one["accuracy"] for one in together] == pytest.approx(
        [one["accuracy"] for one in alone], abs=1 / 40
    )
    assert told[-1].step == told[-1].total == 3 * STUDENT.num_steps
    # what was finished is not trained again
    monkeypatch.setattr(judging, "judge_together", None)
    assert judged(tmp_path, material)["hard", "ours"] == together


def test_a_cancel_ends_students_that_are_trained_together(
    tmp_path: Path, material, monkeypatch
) -> None:
    monkeypatch.setattr(judging, "students_together", lambda device, image_size: 3)
    ended: list[int] = []

    def endless(sets, bench, config, *, seeds, on_step):
        step = 0
        try:
            while True:
                on_step(step := step + 1)
        except Cancelled:
            ended.append(step)
            raise

    monkeypatch.setattr(judging, "judge_together", endless)

    def cancel(_: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        judged(tmp_path, material, cancel)
    assert len(ended) == 1
