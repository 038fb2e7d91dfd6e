"""What a caller may send: the body of `POST /jobs` and `POST /estimates`."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, create_model

from app.api.hints import LINE, UNION_TAGS
from app.api.parts import INT_LIMIT, Strict, part_model
from distillery.data.config import DataConfig
from generator.config import MAX_IMAGES_PER_CLASS, DistillConfig

OWN_FIELDS = ("dataset", "revision", "allow_download")  # of `DataConfig`: said elsewhere
Key = Annotated[str, Field(min_length=1, max_length=64, pattern=LINE)]
Value = Annotated[str, Field(max_length=512, pattern=LINE)]


class DatasetRef(Strict):
    """A dataset by its kind and name."""

    type: Literal["builtin", "folder", "hub", "upload"] = Field(
        description="Where to look: what comes with the program, the mounted folder, the Hub, "
        "or what was uploaded."
    )
    id: str = Field(min_length=1, max_length=300, description="Its name there.")
    revision: str | None = Field(
        None, max_length=100, pattern=r"^[A-Za-z0-9._/-]+$",
        description="Commit, branch or tag of a Hub dataset.",
    )  # fmt: skip


def _branch(value: Any) -> str:
    """Return which form of naming a dataset was used."""
    return UNION_TAGS[0] if isinstance(value, str) else UNION_TAGS[1]


DatasetName = Annotated[str, Field(min_length=1, max_length=300, pattern=LINE)]
Dataset = Annotated[
    Annotated[DatasetName, Tag(UNION_TAGS[0])] | Annotated[DatasetRef, Tag(UNION_TAGS[1])],
    Discriminator(_branch),
]


class _JobFields(Strict):
    """What a job is asked to do. Only what differs from the defaults has to be sent."""

    dataset: Dataset = Field(
        "digits",
        description="A built-in, uploaded or mounted dataset by its name, or a Hub id "
        "`owner/name[@revision]`.",
    )
    ipc: int | None = Field(
        None, ge=1, le=MAX_IMAGES_PER_CLASS, description="Images per class of the result (10)."
    )
    preset: Literal["default", "smoke"] | None = Field(
        None, description="`smoke`: the real thing on a sliver, in seconds."
    )
    seed: int | None = Field(
        None, ge=-INT_LIMIT, le=INT_LIMIT, description="Root of every random draw (0)."
    )
    name: str | None = Field(None, max_length=200, pattern=LINE, description="For people.")
    metadata: dict[Key, Value] = Field(
        default_factory=dict, max_length=16, description="Pairs to find the job by."
    )
    priority: int = Field(5, ge=1, le=9, description="1 is first, 9 last.")
    acknowledge_licence: bool = Field(
        False,
        description="That you know the licence of a base model that forbids commercial use; the "
        "result inherits it.",
    )


def _job_model() -> type[BaseModel]:
    """Return the body: the fields above and the parts of the configuration by their own names."""
    config = part_model(DistillConfig)
    taken = {"images_per_class", "seed", "preset", "data"}
    rest: dict[str, Any] = {
        field.name: (
            config.model_fields[field.name].annotation,
            Field(None, description=config.model_fields[field.name].description),
        )
        for field in fields(DistillConfig)
        if field.name not in taken
    }
    data = part_model(DataConfig, frozenset(OWN_FIELDS))
    rest["data"] = (data | None, Field(None, description="How the images are read and split."))
    return create_model("JobBody", __base__=_JobFields, __doc__=_JobFields.__doc__, **rest)


JobBody: Any = _job_model()
"""Body of `POST /jobs` and `POST /estimates`."""
EXAMPLE = {"dataset": "digits", "ipc": 10}
MAX_THREADS = 256
PARTS = ("base", "finetune", "generate", "proxy", "select", "refine", "label", "evaluate", "data")


class LoginBody(Strict):
    """A key to exchange for a session of this browser."""

    key: str = Field(min_length=1, max_length=200)
