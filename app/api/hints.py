"""What is wrong with each field of a request: where it is (a JSON pointer), and what to write.

Unknown fields come with the nearest known name. Source: RFC 6901 for pointers.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

SYNONYMS = {
    "images_per_class": "ipc", "model": "base", "base_model": "base", "labels": "label",
    "sample": "generate", "dataset_id": "dataset", "license": "acknowledge_licence",
}  # fmt: skip
UNION_TAGS = ("<name>", "<reference>")
"""Names of the branches of a union; pydantic puts them into locations."""
LINE = "^[^\\x00-\\x1f\\x7f-\\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
"""Pattern of texts that people read: no control characters, no breaks of lines, no turned text."""
MAX_ERRORS = 20


def field_errors(found: Sequence[Mapping[str, Any]], body_field: Any) -> list[dict[str, Any]]:
    """Return pydantic's errors as `{"pointer" or "parameter", "code", "detail"}`, at most 20.

    Args:
        found: `errors()` of a validation error, with locations that begin with body, query, ...
        body_field: FastAPI's description of the body, None where there is none.
    """
    model = getattr(getattr(body_field, "field_info", None), "annotation", None)
    errors = []
    for error in found[:MAX_ERRORS]:
        place, *path = (part for part in error["loc"] if part not in UNION_TAGS)
        at = _place(place, path)
        errors.append({**at, "code": _code(error["type"]), "detail": _detail(error, path, model)})
    return _unique(errors)


def unknown_field(name: str, known: Sequence[str]) -> str:
    """Return the sentence about a field that does not exist."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    synonym = SYNONYMS.get(name)
    nearest = synonym if synonym in known else near[0] if near else None
    shown = f"unknown field {name[:60]!r}"
    if nearest:
        return f"{shown}; did you mean {nearest!r}?"
    return f"{shown}; fields are {', '.join(known)}"


def pointer(path: Sequence[Any]) -> str:
    """Return the JSON pointer of a path, as a fragment."""
    parts = (str(part)[:100].replace("~", "~0").replace("/", "~1") for part in path)
    return "#" + "".join(f"/{part}" for part in parts)


def _place(place: Any, path: Sequence[Any]) -> dict[str, str]:
    if place == "body":
        return {"pointer": pointer(path)}
    return {"parameter": str(path[0])[:100] if path else str(place)}


def _fields(model: Any) -> Mapping[str, Any]:
    is_model = isinstance(model, type) and issubclass(model, BaseModel)
    return model.model_fields if is_model else {}


def _model_of(annotation: Any) -> Any:
    """Return the model in an annotation such as `Part | None`, None where there is none."""
    if _fields(annotation):
        return annotation
    found = (_model_of(each) for each in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _code(kind: str) -> str:
    if kind == "extra_forbidden":
        return "unknown_field"
    if kind == "missing":
        return "missing_field"
    ranges = ("greater_than", "less_than", "too_long", "too_short", "string_too")
    return "out_of_range" if kind.startswith(ranges) or kind.endswith(ranges) else "invalid_value"


def _detail(error: Mapping[str, Any], path: Sequence[Any], model: Any) -> str:
    """Return one sentence: what was expected of this field."""
    if error["type"] == "extra_forbidden":
        for part in path[:-1]:
            field = _fields(model).get(part)
            model = None if field is None else _model_of(field.annotation)
        return unknown_field(str(path[-1]), list(_fields(model)))
    where = ".".join(str(part)[:100] for part in path) or "the body"
    if (error.get("ctx") or {}).get("pattern") == LINE:
        return f"{where} must be one line of text without control characters"
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {str(error['msg']).removeprefix('Value error, ')}"[:400]


def _unique(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one error a place: each branch of a union complains on its own."""
    seen: dict[str, dict[str, Any]] = {}
    for error in errors:
        seen.setdefault(error.get("pointer") or f"?{error.get('parameter')}", error)
    return list(seen.values())
