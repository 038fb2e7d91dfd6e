"""What the prepare stage says in its one line."""

from typing import Any

from generator.stages.prepare import summary_of

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
