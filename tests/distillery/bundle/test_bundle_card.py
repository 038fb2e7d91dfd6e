"""The card is valid YAML and Markdown, whatever the classes are called."""

from collections.abc import Callable
from typing import Any

import pytest

from distillery.bundle.card import card_text, plain
from distillery.bundle.dataset import DistilledDataset

HOSTILE = (
    "---\nlicense: mit",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "a | b",
    "# heading",
    "https://evil.example/x",
    "\u202egnp.exe",
    "@someone ![x](http://e.vil/p.png)",
)


def front_matter(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)


def row(name: str, label: str, mean: float, **fields: Any) -> dict[str, Any]:
    accuracy = {"mean": mean, "std": 0.004, "runs": [mean, mean]}
    return {"name": name, "label": label, "images_per_class": 3, "accuracy": accuracy, **fields}


def test_the_card_carries_the_numbers_with_their_protocol(dataset: DistilledDataset) -> None:
    report = {
        "dataset": {"reference": "org/birds@main", "kind": "hub"},
        "protocol": {"student": "convnet-d3", "num_seeds": 5},
        "results": {
            "hard": [row("ours", "this set", 0.9789, is_ours=True), row("r", "random real", 0.965)],
            "soft": [row("ours", "this set", 0.9812, is_ours=True)],
        },
        "full_data": row("full", "full data", 0.987),
        "stage_effects": [{"stage": "refine", "verdict": "No measurable effect."}],
        "licences": [
            {"what": "base model", "licence": "cc-by-nc-4.0"},
            {"what": "source data", "licence": "mit"},
        ],
    }
    card = card_text(dataset, report)

    assert "| **this set** | 3 | 97.9 ± 0.4 % |" in card
    assert "| full data | all | 98.7 ± 0.4 % |" in card
    assert "| soft-label training |" in card
    assert "over 5 runs" in card
    assert "- refine: No measurable effect." in card
    matter = front_matter(card)
    assert matter["license"] == "cc-by-nc-4.0"  # the strictest of those named
    assert matter["source_datasets"] == ["org/birds"]
    assert matter["size_categories"] == ["n<1K"]
    assert matter["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"


def test_one_student_has_no_spread_in_the_card(dataset: DistilledDataset) -> None:
    one = {"mean": 0.9, "std": 0.0, "runs": [0.9]}
    report = {
        "protocol": {"student": "convnet-d3", "num_seeds": 1},
        "results": {"hard": [row("ours", "this set", 0.9, accuracy=one)]},
    }
    card = card_text(dataset, report)
    assert "| this set | 3 | 90.0 % |" in card
    assert "accuracy of convnet-d3, of one run;" in card and "±" not in card


def test_a_card_without_a_report_promises_no_numbers(dataset: DistilledDataset) -> None:
    card = card_text(dataset, None)
    assert "How good it is" not in card
    assert front_matter(card)["license"] == "cc-by-nc-4.0"  # from the bundle's own metadata


@pytest.mark.parametrize(
    ("licences", "expected"),
    [([], "unknown"), (["mit"], "mit"), (["mit", "Apache-2.0"], "other"), (["see file"], "other")],
)
def test_the_licence_tag_is_one_of_the_hubs(
    make_dataset: Callable[..., DistilledDataset], licences: list[str], expected: str
) -> None:
    report = {"licences": [{"what": "data", "licence": name} for name in licences]}
    assert front_matter(card_text(make_dataset(metadata={}), report))["license"] == expected


def test_hostile_class_names_are_text_and_nothing_else(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    source = {"source_dataset": 'x"\nlicense: mit\n---\n<b>'}
    dataset = make_dataset(classes=HOSTILE, metadata=source)
    card = card_text(dataset, None)

    matter = front_matter(card)
    assert matter["license"] == "unknown"
    assert matter["pretty_name"].startswith('x"\nlicense: mit')  # quoted, not a key
    body = card.split("---\n", 2)[2]
    assert "<" not in body and "](javascript" not in body and "https://evil" not in body
    assert "\u202e" not in body
    table = [line for line in body.splitlines() if line[:2] == "| " and line[2:3].isdigit()]
    assert len(table) == len(HOSTILE)  # a line break or a bar in a name makes no new row or cell
    assert all(line.replace("\\|", "").count("|") == 3 for line in table)


def test_plain_text_is_one_short_line() -> None:
    assert plain("golden retriever") == "golden retriever"
    assert plain("金魚") == "金魚"
    assert plain("a\tb\n\x1b[31mc") == "a b \\[31mc"
    assert plain("1. x") == "1\\. x"
    assert plain("- x") == "\\- x"
    assert len(plain("x" * 500)) == 80


def test_a_long_class_table_is_cut(make_dataset: Callable[..., DistilledDataset]) -> None:
    names = tuple(f"class {index}" for index in range(250))
    card = card_text(make_dataset(classes=names, images_per_class=1, size=1), None)
    assert "class 99 |" in card and "class 100 |" not in card
    assert "and 150 more, see `manifest.json`" in card


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("generated", "12 synthetic images"),
        ("refined", "12 real images (5 x 5, colour) in 4 classes, chosen and altered by"),
        ("real", "12 real images (5 x 5, colour) in 4 classes, chosen by Distillery, unaltered"),
    ],
)
def test_the_card_says_whether_images_are_synthetic(
    make_dataset: Callable[..., DistilledDataset], origin: str, expected: str
) -> None:
    card = card_text(make_dataset(origin=origin), None)
    assert expected in card
    assert ("synthetic" in card) == (origin == "generated")
    assert ("synthetic" in front_matter(card)["tags"]) == (origin == "generated")


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("real", "The generator's samples failed their check, so real images took their place."),
        ("real_by_validation", "on the validation split students of real images did better"),
        ("real_by_request", "Real images were asked for."),
    ],
)
def test_the_card_says_why_images_are_real(
    make_dataset: Callable[..., DistilledDataset], start: str, why: str
) -> None:
    dataset = make_dataset(origin="refined", metadata={"start": start})
    assert why in card_text(dataset, None)
    assert why not in card_text(make_dataset(metadata={"start": "generated"}), None)


def test_packed_real_images_are_not_called_unaltered(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    assert "unaltered" in card_text(make_dataset(origin="real"), None)
    packed = make_dataset(origin="real", size=6, formation_factor=2, teacher_logits=None)
    assert "unaltered" not in card_text(packed, None)
