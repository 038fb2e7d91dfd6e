"""Models of request bodies made from the configuration's own dataclasses: one place per field.

Every field is optional and unknown ones are refused; ranges are checked by the dataclasses
themselves (`generator.config.from_dict`), so that API, command line and worker agree.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from app.api.hints import LINE

INT_LIMIT = 2**53 - 1
"""Larger numbers do not survive every JSON reader."""
MAX_TEXT = 300


class Strict(BaseModel):
    """A body that refuses unknown fields and does not guess types."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


@cache
def part_model(kind: type, without: frozenset[str] = frozenset()) -> type[BaseModel]:
    """Return the model of a configuration dataclass, with all of its fields optional."""
    hints, texts = typing.get_type_hints(kind), field_texts(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name not in without:
            text = texts.get(field.name)
            fields[field.name] = (_optional(hints[field.name]), Field(None, description=text))
    name = kind.__name__.removesuffix("Config") + "Part"
    return create_model(name, __base__=Strict, __doc__=inspect.getdoc(kind), **fields)


def field_texts(kind: type) -> dict[str, str]:
    """Return the line of text that stands under each field of a dataclass."""
    source = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(source, ast.ClassDef)
    texts = {}
    for field, below in zip(source.body, source.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            texts[field.target.id] = inspect.cleandoc(str(below.value.value))
    return texts


def _optional(hint: Any) -> Any:
    """Return the annotation of a field that may be left open."""
    if dataclasses.is_dataclass(hint):
        return part_model(hint) | None  # type: ignore[arg-type]
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    limited: Any = None
    for each in allowed:
        if each is int:
            each = Annotated[int, Field(ge=-INT_LIMIT, le=INT_LIMIT)]
        elif each is float:
            each = Annotated[float, Field(allow_inf_nan=False)]
        elif each is str:
            each = Annotated[str, Field(max_length=MAX_TEXT, pattern=LINE)]
        elif each is type(None):
            continue
        limited = each if limited is None else limited | each
    return typing.Optional[limited]  # noqa: UP045  (a Literal has no `|` on Python 3.11)
