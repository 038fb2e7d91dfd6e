"""Which row of a base model's label tables each of the user's classes gets.

A class that the base knows keeps its row; any other takes the row of a base class that is not in
use, started from a mean of class rows. The null class stays the last row, where diffusers'
pipelines expect it. Rows come from names alone, never from the order of folders.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillery.errors import ModelError

if TYPE_CHECKING:  # plans map classes without torch
    from torch import nn

IMAGENET_CLASSES = 1000
WNIDS_FILE = Path(__file__).with_name("imagenet_wnids.txt")
"""WordNet ids of ImageNet-1K, one a line; ImageNet's class indices are their sorted order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMapping:
    """Rows of the label tables for K classes, with the reason for each."""

    rows: tuple[int, ...]
    """Row of each class; all different."""
    origins: tuple[Literal["known", "own"], ...]
    """`known`: the base was trained on this class; `own`: the row was another class's."""
    initialised_from: tuple[tuple[int, ...], ...]
    """Rows whose mean starts an own class; empty: of all classes. Empty for known classes."""


def imagenet_wnids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1K in the order of its class indices."""
    return tuple(WNIDS_FILE.read_text(encoding="ascii").split())


def map_classes(
    class_names: Sequence[str],
    id2label: Mapping[int, str],
    num_rows: int,
    *,
    similar_rows: Mapping[int, Sequence[int]] | None = None,
) -> ClassMapping:
    """Give every class a row of its own.

    A class is known where its name is a label of the base (`tench, Tinca tinca`), one of a label's
    comma-separated parts whatever the case (`Tench`, `golden_retriever`), or, for ImageNet bases, a
    WordNet id. A name that fits several rows (`crane`) makes an own class started from those.

    Args:
        class_names: Names of the K classes.
        id2label: Labels of the base by row, as far as known.
        num_rows: Rows of the label tables, without the null row.
        similar_rows: Rows to start an own class from, by class index, where the caller knows some.

    Raises:
        ModelError: If there are more classes than rows.
    """
    if len(class_names) > num_rows:
        raise ModelError(
            f"the base model has rows for {num_rows} classes, got {len(class_names)}: "
            "choose fewer classes, or pretrain a base on your own images"
        )
    exact, loose = _rows_by_name(id2label, num_rows)
    known = _known_rows(class_names, exact, loose)
    free = iter(sorted(set(range(num_rows)) - set(known.values())))
    rows, starts = [], []
    for index, name in enumerate(class_names):
        rows.append(known[index] if index in known else next(free))
        start = exact.get(name) or loose.get(_fold(name)) or (similar_rows or {}).get(index, ())
        starts.append(() if index in known else tuple(start))
    return ClassMapping(
        rows=tuple(rows),
        origins=tuple("known" if index in known else "own" for index in range(len(class_names))),
        initialised_from=tuple(starts),
    )


def _known_rows(
    class_names: Sequence[str], exact: Mapping[str, list[int]], loose: Mapping[str, list[int]]
) -> dict[int, int]:
    """Return rows by class index, for names that fit one row that no other class has."""
    known: dict[int, int] = {}
    for table, key in ((exact, str), (loose, _fold)):  # exact names first, so that `A` is not `a`
        for index, name in enumerate(class_names):
            rows = table.get(key(name), [])
            if index not in known and len(rows) == 1 and rows[0] not in known.values():
                known[index] = rows[0]
    return known


def _fold(name: str) -> str:
    """Return a name without what people write differently: case, underscores, double spaces."""
    return " ".join(name.replace("_", " ").casefold().split())


def _rows_by_name(
    id2label: Mapping[int, str], num_rows: int
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return rows by (exact name: label or WordNet id; folded name: label or part of a label)."""
    exact: dict[str, list[int]] = {}
    loose: dict[str, list[int]] = {}
    for row in sorted(row for row in id2label if 0 <= row < num_rows):
        label = id2label[row]
        exact.setdefault(label, []).append(row)
        for name in sorted({_fold(part) for part in [label, *label.split(",")]}):
            loose.setdefault(name, []).append(row)
    if num_rows == IMAGENET_CLASSES and re.match(r"tench\b", id2label.get(0, "")):
        for row, wnid in enumerate(imagenet_wnids()):
            exact.setdefault(wnid, []).append(row)
    return exact, loose


def initialise_rows(transformer: "nn.Module", mapping: ClassMapping) -> None:
    """Start the rows of own classes, in every block's table; known and null rows stay.

    Each own row becomes the mean of the rows it is initialised from, or of all class rows, as they
    were before the call: so it does not matter which rows are overwritten.
    """
    from distillery.models.dit import label_tables

    for table in label_tables(transformer):
        weights = table.weight.detach()  # the same memory, not watched by autograd
        before = weights[:-1].clone()  # (R, width), without the null row
        for row, origin, start in zip(
            mapping.rows, mapping.origins, mapping.initialised_from, strict=True
        ):
            if origin == "own":
                weights[row] = before[list(start)].mean(0) if start else before.mean(0)
