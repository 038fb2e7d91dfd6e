"""Tables of a protocol: one row a network, hard and soft apart, nothing trained twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.data.normalise import measure_normalisation
from distillery.errors import ConfigError
from distillery.evaluation.harness import ImageSet
from distillery.evaluation.inputs import Inputs, Work
from distillery.evaluation.protocol_run import run_protocol
from distillery.evaluation.protocols import Case, find_protocol
from distillery.evaluation.setting import Overrides, resolve
from distillery.evaluation.tables import first_of, random_reals
from distillery.evaluation.teacher import own_teacher
from distillery.files import json_bytes
from distillery.progress import Progress, ignore_progress

Blobs = tuple[np.ndarray, np.ndarray]


def work_of(blobs: Blobs, folder: Path, protocol: str, ipc: int = 5, **overrides: object) -> Work:
    images, labels = blobs
    few = np.concatenate([np.flatnonzero(labels == label)[:ipc] for label in (0, 1)])
    case = Case(images_per_class=ipc, num_classes=2, image_size=8, channels=1)
    values = {"networks": ("convnet-d1-w8",), "num_epochs": 15, "num_repeats": 2} | overrides
    setting = resolve(find_protocol(protocol), case, Overrides(**values))  # type: ignore[arg-type]
    inputs = Inputs(
        distilled=ImageSet(images[few], labels[few]), num_classes=2, train=blobs, test=blobs,
        normalisation=measure_normalisation(images),
    )  # fmt: skip
    return Work(
        setting=setting, inputs=inputs, store=folder / "s.json", on_progress=ignore_progress
    )


def test_a_row_for_each_network(blobs: Blobs, tmp_path: Path) -> None:
    networks = ("convnet-d1-w8", "convnet-d2-w8")
    result = run_protocol(work_of(blobs, tmp_path, "cross-arch", networks=networks))
    rows = result["results"]["hard"]
    assert [row["name"] for row in rows] == list(networks) and not result["results"]["soft"]
    for row in rows:
        assert row["accuracy"]["mean"] > 0.9 and len(row["accuracy"]["runs"]) == 2
        assert not {"noise", "cluster_min", "best"} & set(row)
    assert result["protocol"]["name"] == "cross-arch" and not result["protocol"]["is_published"]
    json_bytes(result)


def test_the_robust_protocol_measures_shifts_and_groups(blobs: Blobs, tmp_path: Path) -> None:
    work = replace(work_of(blobs, tmp_path, "robust-rdd", num_repeats=1), keep_best=True)
    (row,) = run_protocol(work)["results"]["hard"]
    assert row["invert"]["mean"] < 0.5 < row["noise"]["mean"]
    assert row["cluster_min"] is None  # ten clusters of 80 images: not enough data in any
    assert row["best"]["mean"] >= row["accuracy"]["mean"]


def test_a_second_run_trains_what_is_new_alone(blobs: Blobs, tmp_path: Path) -> None:
    first = run_protocol(work_of(blobs, tmp_path, "dc-small"))
    told: list[Progress] = []
    work = replace(work_of(blobs, tmp_path, "dc-small", num_repeats=3), on_progress=told.append)
    second = run_protocol(work)
    runs = [r["results"]["hard"][0]["accuracy"]["runs"] for r in (first, second)]
    assert runs[1][:2] == runs[0] and len(runs[1]) == 3
    assert min(report.step for report in told) >= 30  # two students of 15 epochs were there


def test_soft_labels_come_from_a_teacher_or_the_set_and_stand_apart(
    blobs: Blobs, tmp_path: Path
) -> None:
    work = work_of(blobs, tmp_path, "soft-rded", ipc=10, num_repeats=1, num_epochs=30)
    with pytest.raises(ConfigError, match="use --teacher train"):
        run_protocol(work)
    path = tmp_path / "teacher.safetensors"
    teacher = own_teacher(work, blobs, "convnet-d1-w8", 8, path)
    assert teacher(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    with_teacher = replace(work, inputs=replace(work.inputs, teacher=teacher))
    result = run_protocol(with_teacher)["results"]
    assert not result["hard"] and result["soft"][0]["accuracy"]["mean"] > 0.8
    again = own_teacher(work, blobs, "convnet-d1-w8", 8, path)
    probe = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(again(probe), teacher(probe))


def test_ratios_stand_beside_as_many_real_images(blobs: Blobs, tmp_path: Path) -> None:
    rows = run_protocol(work_of(blobs, tmp_path, "ratios", num_repeats=1))["results"]["hard"]
    shown = [(row["images_per_class"], row["is_ours"]) for row in rows]
    assert shown == [(1, True), (1, False), (5, True), (5, False)]
    assert rows[-1]["share_of_train"] == pytest.approx(10 / 80)


def test_the_first_images_of_each_class_keep_their_order() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    image_set = ImageSet(images, np.array([1, 0, 1, 0, 1, 0]), np.arange(12.0).reshape(6, 2))
    two = first_of(image_set, 2)
    assert two.images.ravel().tolist() == [0, 1, 2, 3] and two.labels.tolist() == [1, 0, 1, 0]
    assert two.teacher_logits is not None and two.teacher_logits[1].tolist() == [2.0, 3.0]


def test_random_reals_are_prefixes_of_each_other(blobs: Blobs) -> None:
    few, more = random_reals(blobs, 2, 0), random_reals(blobs, 4, 0)
    assert np.bincount(few.labels).tolist() == [2, 2]
    assert {i.tobytes() for i in few.images} < {i.tobytes() for i in more.images}
    assert len(random_reals(blobs, 1000, 0).labels) == 80
