"""Which columns of a Parquet file hold the image and the class, and what the classes are called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillery.data.source import check_class_names, class_table, clean_text
from distillery.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("image", "img", "picture", "photo")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where image and class stand."""

    image_bytes: str
    """Path of the column with the image file's bytes, such as `image.bytes`."""
    label: str
    """Name of the column with the class."""
    class_names: tuple[str, ...] | None
    """Names of the classes 0, 1, ..., if the schema gives them."""


def columns_of(schema: "pa.Schema", label_column: str | None, file_name: str) -> Columns:
    """Find the image and the label column.

    Args:
        schema: The file's schema.
        label_column: The label column, if the user named one.
        file_name: For messages.

    Raises:
        DataError: If a column is missing or cannot be told from others.
    """
    features = _features(schema)
    image = _image_column(schema, features, file_name)
    label = label_column or _label_column(schema, features, file_name)
    if label not in schema.names or label == image:
        raise DataError(
            f"{file_name!r} has no label column {label!r}; its columns are {schema.names}"
        )
    kind = schema.field(label).type
    if not _holds_labels(kind):
        raise DataError(
            f"column {label!r} of {file_name!r} must hold whole numbers or texts, it holds {kind}; "
            "name another with --set data.label_column=NAME"
        )
    names = features.get(label, {}).get("names")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise DataError(
            f"the class names of column {label!r} in {file_name!r} are no list of texts; "
            "write the file anew"
        )
    is_struct = schema.field(image).type.num_fields > 0
    table = tuple(map(clean_text, names)) if names is not None else None
    return Columns(f"{image}.bytes" if is_struct else image, label, table)


def label_table(values: Sequence[Any], columns: Columns) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return (class names, label of each cell value); null and -1 get no label.

    Raises:
        DataError: If values lie outside the class table, or the table cannot be used.
    """
    present = {value for value in values if value is not None}
    if all(isinstance(value, int) for value in present):
        present.discard(-1)  # how Hub datasets mark hidden test labels
        names = columns.class_names
        if names is None:
            ordered = sorted(present)
            names = tuple(str(int(value)) for value in ordered)
            check_class_names(names)
            return names, {value: label for label, value in enumerate(ordered)}
        check_class_names(names)
        wrong = sorted(value for value in present if not 0 <= value < len(names))
        if wrong:
            raise DataError(
                f"column {columns.label!r} holds label {wrong[0]}, but there are {len(names)} "
                "class names; mend the class names in the file's metadata"
            )
        return names, {label: label for label in range(len(names))}
    names = columns.class_names or class_table(map(clean_text, present))
    check_class_names(names)
    label_of = {name: label for label, name in enumerate(names)}
    return names, {v: label_of[clean_text(v)] for v in present if clean_text(v) in label_of}


def _features(schema: "pa.Schema") -> Mapping[str, Mapping[str, Any]]:
    """Return what the metadata say of each column; nothing where they are missing or odd."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        features = metadata["info"]["features"]
        return {name: f for name, f in features.items() if isinstance(f, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _image_column(
    schema: "pa.Schema", features: Mapping[str, Mapping[str, Any]], file_name: str
) -> str:
    found = [name for name in schema.names if _holds_images(schema.field(name).type)]
    marked = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    named = [name for name in IMAGE_NAMES if name in found]
    for candidates in (marked, named, found):
        if len(candidates) == 1 or (candidates and candidates is named):
            return candidates[0]
    raise DataError(
        f"expected one column of images (a struct with bytes, or bytes) in {file_name!r}, found "
        f"{found or 'none'} among {schema.names}; keep one, named 'image'"
    )


def _holds_images(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    def is_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return "bytes" in fields and is_bytes(fields["bytes"])
    return is_bytes(kind)


def _holds_labels(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    return any(is_kind(kind) for is_kind in (types.is_integer, types.is_string,
                                             types.is_large_string, types.is_boolean))  # fmt: skip


def _label_column(
    schema: "pa.Schema", features: Mapping[str, Mapping[str, Any]], file_name: str
) -> str:
    marked = [n for n in schema.names if features.get(n, {}).get("_type") == "ClassLabel"]
    named = [name for name in LABEL_NAMES if name in schema.names]
    if len(marked) == 1:
        return marked[0]
    preferred = [name for name in named if name in marked or not marked]
    if preferred:
        return preferred[0]
    raise DataError(
        f"cannot tell which column of {file_name!r} holds the class, its columns are "
        f"{schema.names}; name it with --set data.label_column=NAME"
    )
