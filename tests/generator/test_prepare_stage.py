"""What the prepare stage says in its one line."""

from typing import Any

from generator.stages.prepare import summary_of

FACTS: dict[str, Any] = {
    "class_names": ["a", "b"],
    "image_size": 8,
    "counts": {"train": [7, 7], "validation": [1, 1], "test": [2, 2]},
    "bad_files": [],
    "notes": [],
}


def test_the_summary_counts_images_and_names_what_could_surprise() -> None:
    plain = "20 images of 2 classes at 8 px: 14 train, 2 validation, 4 test"
    assert summary_of(FACTS) == plain
    bad = [{"name": "a/1.png", "reason": "is cut short"}]
    told = summary_of({**FACTS, "bad_files": bad, "notes": ["a note"]})
    assert told == f"{plain}; 1 bad file left out, first a/1.png; a note"
    assert "; 2 bad files left out" in summary_of({**FACTS, "bad_files": bad * 2})
