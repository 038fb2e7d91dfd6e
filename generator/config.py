"""The whole configuration of a job: nested dataclasses, to and from plain dicts.

What a user leaves open is None here; `generator.plan` fills it in and records why. The resolved
dict is in the job folder and in the bundle's manifest, so that a bundle can be made again.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from distillery.data.config import DataConfig
from distillery.errors import ConfigError
from distillery.evaluation.config import EvaluateConfig
from finetune.config import FinetuneConfig, PretrainConfig
from robust.config import ProxyConfig, RefineConfig, SelectConfig, check_counts, check_refinement

MAX_IMAGES_PER_CLASS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """The diffusion transformer that samples the candidates."""

    reference: str = "auto"
    """`auto`, `pixel` (trained here), a pipeline folder, or a Hub id."""
    revision: str | None = None
    """Commit or branch of a Hub id."""
    allow_download: bool = False
    """Whether weights may be fetched from the Hub."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """How a pixel base is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """How candidates are sampled."""

    sampler: Literal["dpm-solver++", "ddim"] = "dpm-solver++"
    """Solver."""
    num_steps: int = 15
    """Solver steps."""
    guidance_scale: float | None = None
    """Classifier-free guidance; None: falls as images per class rise."""
    oversample: int | None = None
    """Candidates per image of the result; None: more where images per class are few."""
    batch_size: int = 64
    """Images sampled together; batches are cut at fixed (class, index) ranges."""
    precision: Literal["no", "bf16"] = "no"
    """`bf16`: matrix products of transformer and decoder in half precision, for large bases."""
    fidelity_floor: float = 0.5
    """How well the candidates must be recognised, from chance (0) to as well as real images (1).

    Where a judge of real images labels fewer of them rightly, real images take their place; at 0
    nothing is asked.
    """

    def __post_init__(self) -> None:
        """Refuse values that nothing can be sampled with."""
        check_counts("generate", self, "num_steps", "batch_size", "oversample")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            raise ConfigError(f"guidance_scale must be 0 or more, got {self.guidance_scale}")
        if not 0 <= self.fidelity_floor <= 1:
            raise ConfigError(f"generate.fidelity_floor must be 0 to 1, got {self.fidelity_floor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """Soft labels of the result."""

    enabled: bool = True
    """Add the teacher's logits to the bundle; hard and soft results are reported apart."""
    num_steps: int = 400
    """Training steps of the job's own teacher on the train split."""
    teacher: str = "own"
    """`own`, or a transformers image classifier (folder or Hub id) that knows the classes."""

    def __post_init__(self) -> None:
        """Refuse values that no teacher can use."""
        check_counts("label", self, "num_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """A job."""

    images_per_class: int = 10
    """IPC: images per class of the result."""
    seed: int = 0
    """Root of every random draw but the base's own training."""
    preset: Literal["default", "smoke"] = "default"
    """`smoke`: the real thing on a sliver, in seconds."""
    image_size: int | None = None
    """Side of the square images; None: what fits the data and the base."""
    channels: int | None = None
    """1 for gray, 3 for colour; None: what the images are."""
    horizontal_flip: bool | None = None
    """Whether a mirrored image is as good; None: yes for colour, no for gray images."""
    num_threads: int | None = None
    """Threads of a torch operation; None: the machine's cores. Part of what fixes the bytes."""
    device: str | None = None
    """`cpu` or `cuda`; None: the GPU where there is one."""
    data: DataConfig = field(default_factory=DataConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Refuse values that no job can use."""
        if not 1 <= self.images_per_class <= MAX_IMAGES_PER_CLASS:
            raise ConfigError(
                f"images per class (--ipc) must be 1 to {MAX_IMAGES_PER_CLASS}, "
                f"got {self.images_per_class}"
            )
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"channels must be 1 (gray) or 3 (colour), got {self.channels}")
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise ConfigError(f"image_size must be 8 to 1024 pixels, got {self.image_size}")
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads (--threads) must be 1 or more, got {self.num_threads}")
        if self.device not in (None, "cpu", "cuda"):
            raise ConfigError(f"device must be cpu or cuda, got {self.device!r}")
        check_refinement(self.refine, self.images_per_class)


def key_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as a stage's key reads it: `to_dict` without unused later fields.

    A field that came after jobs were kept (`robust.config.LATER`) counts only where it is not at
    its default, so that what was computed before it stays valid.
    """
    return {
        part.name: key_dict(value) if dataclasses.is_dataclass(value) else value
        for part in dataclasses.fields(config)
        for value in [getattr(config, part.name)]
        if not (part.metadata.get("later") and value == part.default)
    }


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the type of each field of a config dataclass."""
    return typing.get_type_hints(kind)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as nested plain dicts."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any], kind: type = DistillConfig, path: str = "") -> Any:
    """Return the config dataclass of `kind` that nested dicts describe; the rest is default.

    Raises:
        ConfigError: If a field is unknown (the nearest name is offered) or of a wrong type.
    """
    hints = field_types(kind)
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            advice = f"; did you mean {near[0]!r}?" if near else f"; fields are {', '.join(hints)}"
            raise ConfigError(f"unknown field {path + name!r}{advice}")
        arguments[name] = _value(value, hints[name], path + name)
    return kind(**arguments)


def _value(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the annotated type of a field."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be a table of fields, got {value!r}")
        return from_dict(value, hint, f"{name}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(
                f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}"
            )
        return value
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if int not in allowed else value
    if isinstance(value, bool) and bool not in allowed or not isinstance(value, allowed):
        names = " or ".join("nothing" if t is type(None) else t.__name__ for t in allowed)
        raise ConfigError(f"{name} must be {names}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value}")
    return value
