"""The form of a new job: its fields, and what stands in them at first.

A form can be filled from the address (`/new?dataset=digits&ipc=10`) or from an earlier job
(`/new?from=job_...`), so that every state of it can be kept, shared and repeated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.jobs.records import ACKNOWLEDGED

YES_NO = (("", "default"), ("true", "yes"), ("false", "no"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of "More settings"."""

    path: str
    """Of the request body."""
    label: str
    help: str
    kind: str = "text"
    placeholder: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    low: int = 0
    high: int = 2**31 - 1
    offers_models: bool = False
    """Whether the known models are offered."""
    value: str = ""

    @property
    def key(self) -> str:
        """Its id in the page."""
        return self.path.replace(".", "-").replace("_", "-")


FIELDS = (
    Field(path="seed", label="Seed", kind="number", placeholder="0",
          help="Root of every random draw but the base's own training."),
    Field(path="image_size", label="Image size, pixels", kind="number", low=8, high=1024,
          placeholder="what fits the data", help="Side of the square images, 8 to 1024."),
    Field(path="base.reference", label="Base model", placeholder="auto", offers_models=True,
          help="auto, pixel (trained here), or a Hub id, owner/name."),
    Field(path="base.allow_download", label="Download weights", choices=YES_NO,
          help="Whether the Hub may be asked for a model that is not here."),
    Field(path="horizontal_flip", label="Mirrored images are as good", choices=YES_NO,
          help="By default yes for colour, no for gray images."),
    Field(path="finetune.preset", label="Minimax form",
          choices=(("", "default"), ("reference", "reference"), ("printed", "printed")),
          help="Ours, the released code's, or the paper's."),
    Field(path="finetune.enabled", label="Fine-tune", choices=YES_NO,
          help="Without it the base is sampled as it is."),
    Field(path="refine.enabled", label="Refine", choices=YES_NO,
          help="Without it the chosen images are kept as they are."),
    Field(path="label.enabled", label="Soft labels", choices=YES_NO,
          help="Adds a teacher's opinion of each image."),
    Field(path="evaluate.controls", label="Judge controls too", choices=YES_NO,
          help="Real images and plain samples beside the result; costs time."),
    Field(path="evaluate.num_seeds", label="Students per set", kind="number", low=1, high=100,
          placeholder="3", help="More students, smaller error of the figures."),
    Field(path="priority", label="Priority", kind="number", low=1, high=9, placeholder="5",
          help="1 is first, 9 is last."),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What stands in the form."""

    dataset: str = "digits"
    is_other: bool = False
    """Whether the dataset is none of those that are offered."""
    ipc: int = 10
    preset: str = "default"
    name: str = ""
    others: str = ""
    """`field=value` lines of everything that has no field of its own."""
    has_more: bool = False
    fields: tuple[Field, ...] = FIELDS


def form_of(values: Mapping[str, Any], datasets: Sequence[str]) -> Form:
    """Return the form with these values of a request, by path of its body."""
    left = dict(values)
    dataset = str(left.pop("dataset", "digits"))
    ipc = left.pop("ipc", 10)
    preset, name = str(left.pop("preset", "default")), str(left.pop("name", None) or "")
    fields = tuple(replace(field, value=_plain(left.pop(field.path, ""))) for field in FIELDS)
    others = "\n".join(f"{path}={_plain(value)}" for path, value in left.items())
    return Form(
        dataset=dataset,
        is_other=dataset not in datasets,
        ipc=int(ipc) if str(ipc).isascii() and str(ipc).isdigit() else 10,
        preset=preset,
        name=name,
        others=others,
        has_more=bool(others) or any(field.value for field in fields),
        fields=fields,
    )


def values_of_query(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values that an address gives, by path; `set=path=value` where none has a field."""
    values: dict[str, Any] = {}
    for key, value in query:
        if key == "set":
            path, separator, text = value.partition("=")
            if separator and path:
                values[path] = text
        elif value and key != "from":
            values[key] = value
    return values


def values_of_job(request: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return the values that ask for an earlier job again, by path of the request body."""
    values = _flat(request)
    dataset = values.pop("data.dataset", "digits")
    revision = values.pop("data.revision", None)
    values.pop("data.allow_download", None)  # the service's own decision
    values.pop(ACKNOWLEDGED, None)  # said anew for each job
    values["dataset"] = f"{dataset}@{revision}" if revision else dataset
    values["ipc"] = values.pop("images_per_class", 10)
    return values | ({"name": name} if name else {})


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables by their dotted paths."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{path}{key}.")
        elif value is not None:
            leaves[path + key] = value
    return leaves


def _plain(value: Any) -> str:
    """Return a value as it is typed into a field: text as it is, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
