"""The dataset card: a README with the front matter that the Hugging Face Hub reads.

Class names, references and licences come from outside, so they are text and nothing else here:
quoted as JSON in the YAML block, escaped in the Markdown body, never longer than a line.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.schema import FILE_NAME, Origin
from distillery.wording import counted

MAX_LISTED_CLASSES = 100
_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = "\\`*_[]()|~$@#!:"
_BIDI_CONTROLS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def card_text(dataset: DistilledDataset, report: dict[str, Any] | None) -> str:
    """Return the card of a distilled dataset as Markdown with YAML front matter.

    Args:
        dataset: What was distilled.
        report: Content of `report.json`, for the numbers; None where nothing was evaluated.
    """
    facts = report or {}
    source = str(facts.get("dataset", {}).get("reference") or "") or dataset.metadata.get(
        "source_dataset", "a dataset"
    )
    parts = [
        _front_matter(dataset, source, facts),
        f"# {plain(source)}, distilled to {counted(dataset.images_per_class, 'image')} per class\n",
        _introduction(dataset, source),
        _LOADING,
        _results(facts),
        _classes(dataset.classes),
        _provenance(dataset, facts),
        _use(dataset),
    ]
    return "\n".join(part for part in parts if part)


def plain(text: str, *, longest: int = 80) -> str:
    """Return untrusted text as one line of Markdown that means nothing but its letters."""
    letters = [
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in text
        if letter not in _BIDI_CONTROLS
    ]
    line = " ".join("".join(letters).split())
    if len(line) > longest:
        line = line[: longest - 1].rstrip() + "\u2026"
    # a bare address would become a link; a first "-" or "1." would begin a list
    special = _SPECIAL + ("." if "www." in line.lower() or line[:1].isdigit() else "")
    escaped = "".join(
        _ENTITIES.get(letter) or (f"\\{letter}" if letter in special else letter) for letter in line
    )
    return f"\\{escaped}" if escaped[:1] in tuple("-+=") else escaped


_ORIGIN_TAGS = {
    True: (
        "tags: [synthetic, dataset-distillation, dataset-condensation, diffusion, distillery]",
        "annotations_creators: [machine-generated]",
    ),
    False: (
        "tags: [dataset-distillation, dataset-condensation, distillery]",
        "annotations_creators: [found]",  # the labels are those of the source images
    ),
}
_MADE: dict[Origin, tuple[str, str]] = {
    "generated": ("synthetic image", "made by Distillery from"),
    "refined": ("real image", "chosen and altered by Distillery from"),
    "real": ("real image", "chosen by Distillery, unaltered, from"),
}
"""(noun, what was done) of the introduction."""
_STARTS = {
    "real": "The generator's samples failed their check, so real images took their place.",
    "real_by_validation": "The generator's samples did not fail a check, but on the validation "
    "split students of real images did better.",
    "real_by_request": "Real images were asked for.",
}
"""Why images are real, by the metadata's `start`."""


def _front_matter(dataset: DistilledDataset, source: str, facts: Mapping[str, Any]) -> str:
    size = next((name for limit, name in _SIZES if len(dataset) < limit), "n>1M")
    title = f"{source[:60]}, distilled (IPC {dataset.images_per_class})"
    is_hub = facts.get("dataset", {}).get("kind") == "hub"
    hub_id = re.fullmatch(r"([\w.-]+/[\w.-]+)(@.*)?", source, re.ASCII) if is_hub else None
    lines = [
        "---",
        f"pretty_name: {json.dumps(title)}",  # JSON strings are YAML strings
        f"license: {json.dumps(_licence_tag(dataset, facts))}",
        *_ORIGIN_TAGS[dataset.origin == "generated"],
        *([f"source_datasets: [{json.dumps(hub_id[1])}]"] if hub_id else []),
        "task_categories: [image-classification]",
        f"size_categories: [{json.dumps(size)}]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "---\n",
    ]
    return "\n".join(lines)


def _licence_tag(dataset: DistilledDataset, facts: Mapping[str, Any]) -> str:
    """Return the strictest licence that is named: a non-commercial one before any other."""
    named = {str(entry.get("licence") or "") for entry in facts.get("licences") or []}
    named = {name.lower() for name in named | {dataset.metadata.get("license", "")} if name}
    known = sorted(name for name in named if re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,40}", name))
    restricted = [name for name in known if "-nc" in name]
    if restricted:
        return restricted[0]
    if not named:
        return "unknown"
    return known[0] if len(named) == len(known) == 1 else "other"


def _introduction(dataset: DistilledDataset, source: str) -> str:
    _, channels, height, width = dataset.images.shape
    colour = "colour" if channels == 3 else "grey"
    classes = "1 class" if len(dataset.classes) == 1 else f"{len(dataset.classes)} classes"
    noun, made = _MADE[dataset.origin]
    if dataset.formation_factor > 1:
        made = made.replace(", unaltered,", "")
    return (
        f"{counted(len(dataset), noun)} ({height} x {width}, {colour}) in {classes}, "
        f"{made} {plain(source)}: few enough to train a network in seconds.\n"
        + _start(dataset)
        + _packing(dataset)
    )


def _start(dataset: DistilledDataset) -> str:
    """Return the paragraph that says why the images are real, or nothing."""
    why = _STARTS.get(dataset.metadata.get("start", ""))
    return f"\n{why}\n" if why else ""


def _packing(dataset: DistilledDataset) -> str:
    """Return the paragraph that says what packed images are, or nothing."""
    if dataset.formation_factor == 1:
        return ""
    factor = dataset.formation_factor
    return (
        f"\n**Each image holds {factor} x {factor} pictures side by side.** Train on the pictures, "
        "cut out and enlarged bilinearly: `data.views()` and `data.torch()` return them; the "
        "Parquet file holds the images as they are stored.\n"
    )


_LOADING = f"""\
## Load it

```python
import distillery

data = distillery.load("{FILE_NAME}")  # verified; data.images, data.labels, data.classes
train = data.torch()  # torch dataset of (uint8 image, label)
mean, std = data.normalisation  # recommended, for images scaled to [0, 1]
```

```python
from datasets import load_dataset

train = load_dataset("path/of/this/folder", split="train")  # label is a ClassLabel
```

`{FILE_NAME}` is a plain safetensors file: any safetensors library reads it. `SHA256SUMS` covers
every file; check with `sha256sum -c SHA256SUMS`.
"""


def _results(facts: Mapping[str, Any]) -> str:
    """Return the accuracies as tables, hard and soft labels apart."""
    results = facts.get("results") or {}
    parts = []
    for kind in ("hard", "soft"):
        rows = [_result_row(row) for row in results.get(kind) or []]
        if kind == "hard" and rows and facts.get("full_data"):
            rows.append(_result_row({**facts["full_data"], "images_per_class": None}))
        if rows:
            head = f"| {kind}-label training | images per class | accuracy |"
            parts += [head, "|---|--:|--:|", *rows, ""]
    if not parts:
        return ""
    protocol = facts.get("protocol") or {}
    student = plain(str(protocol.get("student", "a small network")))
    count = int(protocol.get("num_seeds", 1))
    over = f"mean ± standard deviation over {count} runs" if count > 1 else "of one run"
    about = f"Test-split accuracy of {student}, {over}; more in `report.html`.\n"
    verdicts = [
        f"- {plain(effect['stage'])}: {plain(effect['verdict'], longest=300)}"
        for effect in facts.get("stage_effects") or []
    ]
    return "\n".join(["## How good it is\n", about, *parts, *verdicts, *([""] if verdicts else [])])


def _result_row(row: Mapping[str, Any]) -> str:
    label = plain(str(row.get("label") or row["name"]))
    label = f"**{label}**" if row.get("is_ours") else label
    number = row.get("images_per_class")
    accuracy = row["accuracy"]
    spread = f" ± {100 * accuracy['std']:.1f}" if len(accuracy["runs"]) > 1 else ""
    return f"| {label} | {number or 'all'} | {100 * accuracy['mean']:.1f}{spread} % |"


def _classes(classes: Sequence[str]) -> str:
    lines = [f"| {index} | {plain(name)} |" for index, name in enumerate(classes)]
    left_out = len(lines) - MAX_LISTED_CLASSES
    if left_out > 0:
        lines = [*lines[:MAX_LISTED_CLASSES], f"| | and {left_out} more, see `manifest.json` |"]
    return "\n".join(["## Classes\n", "| label | name |", "|--:|---|", *lines, ""])


def _provenance(dataset: DistilledDataset, facts: Mapping[str, Any]) -> str:
    hidden = {"norm_mean", "norm_std"}
    lines = [
        f"| {plain(key.replace('_', ' '))} | {plain(value, longest=120)} |"
        for key, value in sorted(dataset.metadata.items())
        if key not in hidden
    ]
    lines.append(f"| content digest | {dataset.content_digest} |")
    licences = [
        f"- {plain(str(entry['what']))}: {plain(str(entry['licence'] or 'unknown'))}"
        for entry in facts.get("licences") or []
    ]
    parts = ["## Where it comes from\n", "| | |", "|---|---|", *lines, ""]
    if licences:
        parts += ["## Licences\n", *licences, "", "The strictest of them holds for this set.\n"]
    return "\n".join(parts)


_ABOUT: dict[Origin, tuple[str, str]] = {
    "generated": (
        "The images are synthetic: each PNG says so in\n"
        "its XMP (`DigitalSourceType`), the bundle in its metadata. They inherit the biases of the "
        "source\ndata and of the base model.",
        "a synthetic image may resemble a training image closely.",
    ),
    "refined": (
        "The images are real training\nimages whose pixels were moved by refinement: each PNG says "
        "so in its XMP (`DigitalSourceType`), the\nbundle in its metadata. They inherit the biases "
        "of the source data.",
        "the training images can be recognised.",
    ),
    "real": (
        "The images are real training\nimages, at most cut to a square, resized and packed. They "
        "inherit the biases of the source data.",
        "these are the training images themselves.",
    ),
}
"""(what the images are, how near they are to real ones)."""


def _use(dataset: DistilledDataset) -> str:
    about, nearness = _ABOUT[dataset.origin]
    return f"""\
## Use and limits

Made for training and comparing image classifiers. {about} They are not a test set.

Distilled is not anonymous: {nearness} Do not treat
this set as free of personal data if its source is not.
"""
