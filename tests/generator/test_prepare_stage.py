"""What the prepare stage says in its one line, and when its work is found in the cache."""

from pathlib import Path
from typing import Any

import pytest

from generator.config import from_dict
from generator.stage import stage_key
from generator.stages.prepare import STAGE, summary_of

NONE = {"count": 0, "other_label": 0, "names": []}
FACTS: dict[str, Any] = {
    "class_names": ["a", "b"],
    "image_size": 8,
    "counts": {"train": [7, 7], "validation": [1, 1], "test": [2, 2]},
    "bad_files": [],
    "leakage": {"validation": NONE, "test": NONE},
    "test_repeats": {"validation": NONE, "test": NONE},
    "notes": [],
}


def test_the_summary_counts_images_and_names_what_could_surprise() -> None:
    plain = "20 images of 2 classes at 8 px: 14 train, 2 validation, 4 test"
    assert summary_of(FACTS) == plain
    bad = [{"name": "a/1.png", "reason": "is cut short"}]
    told = summary_of({**FACTS, "bad_files": bad, "notes": ["a note"]})
    assert told == f"{plain}; 1 bad file left out, first a/1.png; a note"
    assert "; 2 bad files left out" in summary_of({**FACTS, "bad_files": bad * 2})


def test_the_summary_counts_leaked_images() -> None:
    leaks = {
        "leakage": {"validation": NONE | {"count": 1}, "test": NONE | {"count": 3}},
        "test_repeats": {"validation": NONE | {"count": 2}, "test": NONE | {"count": 9}},
    }
    assert summary_of({**FACTS, **leaks}).endswith(
        "; 1 validation image also in train; 3 test images also in train; "
        "2 test images also in validation"
    )


def key(dataset: str, **data: Any) -> str:
    config = from_dict({"data": {"dataset": dataset, **data}, "image_size": 8, "channels": 1})
    return stage_key(STAGE, config, {})


def test_a_local_dataset_is_found_again_however_its_path_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(b"x")
    spellings = ("photos", "./photos", "photos/", "~/photos", str(tmp_path / "photos"))
    assert len({key(text) for text in spellings}) == 1
    assert key("photos", split_seed=1) != key("photos") == key("photos", allow_download=True)
    assert key("org/photos") == key("org/photos", allow_download=True) != key("org/other")


def test_two_datasets_of_equal_names_sizes_and_times_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script leaves them that writes both within one tick of the file system's clock."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.safetensors").write_bytes(name[:1].encode())
    same = source_times(tmp_path / "first" / "x.safetensors")
    monkeypatch.setattr("distillery.data.sources.stamp._row", lambda file, root: [file.name, *same])
    keys = [key(str(tmp_path / name / "x.safetensors")) for name in ("first", "second")]
    assert keys[0] != keys[1]


def source_times(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
