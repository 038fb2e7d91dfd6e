"""Anybody's distilled set is opened, or refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from generator_helpers import SmokeJob
from PIL import Image

from distillery.errors import BundleError, ConfigError, DataError
from generator.distilled_set import (
    data_config,
    facts_of,
    fitted_set,
    match_classes,
    open_distilled,
)


def write_folder(folder: Path, counts: dict[str, int], *, colour: bool = False) -> Path:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 255, (9, 9, 3) if colour else (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    opened = open_distilled(write_folder(tmp_path / "set", {"b": 2, "a": 3}))
    assert opened.classes == ("a", "b") and opened.images.shape == (5, 1, 9, 9)
    assert (opened.images_per_class, opened.fewest_per_class) == (3, 2)
    assert opened.data is None and opened.teacher_logits is None
    colour = open_distilled(write_folder(tmp_path / "colour", {"a": 1, "b": 1}, colour=True))
    assert facts_of(colour)["channels"] == 3 and colour.digest != opened.digest


def test_a_job_its_bundle_and_its_file_are_the_same_set(smoke: SmokeJob) -> None:
    job = open_distilled(smoke.folder)
    bundle, file = (
        open_distilled(smoke.folder / part) for part in ("bundle", "bundle/distilled.safetensors")
    )
    assert job.digest == bundle.digest == file.digest and job.kind == "bundle"
    assert job.data is not None and job.data.dataset == "digits" == bundle.data.dataset  # type: ignore[union-attr]
    assert data_config(bundle, None, allow_download=False).dataset == "digits"
    assert data_config(bundle, "other", allow_download=True).allow_download


def test_a_set_that_does_not_say_its_source_needs_a_dataset(tmp_path: Path) -> None:
    opened = open_distilled(write_folder(tmp_path / "set", {"a": 1, "b": 1}))
    with pytest.raises(ConfigError, match="set does not say what it was made from.*--dataset"):
        data_config(opened, None, allow_download=False)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no .*absent"):
        open_distilled(tmp_path / "absent")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text("{}")
    with pytest.raises(BundleError, match="has no bundle yet: finish it"):
        open_distilled(tmp_path / "job")
    (tmp_path / "x.safetensors").write_bytes(b"abc")
    with pytest.raises(DataError, match="x.safetensors"):
        open_distilled(tmp_path / "x.safetensors")
    folder = write_folder(tmp_path / "set", {"a": 1, "b": 2})
    (folder / "b" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b/0\.png.*replace or remove it"):
        open_distilled(folder)


def test_classes_are_matched_by_name_number_or_export() -> None:
    labels, note = match_classes(("dog", "cat"), ("cat", "dog"))
    assert labels.tolist() == [1, 0] and note is None
    labels, note = match_classes(("00001", "00000"), ("cat", "dog"))
    assert labels.tolist() == [1, 0] and note is not None and "order" in note
    labels, note = match_classes(("0001_dog", "0000_cat"), ("cat", "dog"))
    assert labels.tolist() == [1, 0] and note is None


def test_classes_that_do_not_match_are_named() -> None:
    with pytest.raises(DataError, match=r"\(2 classes\) lacks 'cat' and has 'fox'"):
        match_classes(("fox", "dog"), ("cat", "dog"))
    with pytest.raises(DataError, match="lacks 'b'; name"):
        match_classes(("a", "c"), ("a", "b", "c"))


def test_labels_and_soft_labels_follow_the_test_set(smoke: SmokeJob) -> None:
    opened = open_distilled(smoke.folder)
    assert opened.teacher_logits is not None
    turned = np.roll(np.arange(10), 1)
    fitted = fitted_set(opened, turned, 8)
    assert fitted.labels.tolist() == turned[opened.labels].tolist()
    assert fitted.teacher_logits is not None
    assert (fitted.teacher_logits[:, turned] == opened.teacher_logits).all()
    assert fitted_set(opened, np.arange(10), 6).images.shape == (20, 1, 6, 6)
