"""The options that `run` and `estimate` share, and the request that they add up to.

A request is a nested dict of the fields that the user set, and no others: what is left open is
decided by the plan. `generator.same_job` says when two requests are the same job.
"""

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from distillery.errors import ConfigError

MAX_THREADS = 256
"""More than that kills the process where the system gives no more threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestOptions:
    """What a user may say about a job; None where nothing was said."""

    dataset: Annotated[
        str | None,
        typer.Argument(
            help="digits, a folder of class folders, a .zip or .tar of one, Parquet, a folder of "
            "MNIST idx files, .safetensors, or a Hub id org/name[@revision]. Default: digits.",
            show_default=False,
        ),
    ] = None
    ipc: Annotated[
        int | None, typer.Option(help="Images per class of the result. Default: 10.")
    ] = None
    preset: Annotated[
        Literal["smoke", "default"] | None,
        typer.Option(help="smoke: every stage on a sliver of work, in seconds."),
    ] = None
    seed: Annotated[
        int | None, typer.Option(help="Root of every random draw but the base's own. Default: 0.")
    ] = None
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. Default: what fits the data.")
    ] = None
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Whether a mirrored image is as good. Default: yes for colour, no for gray.",
        ),
    ] = None
    base: Annotated[
        str | None,
        typer.Option(
            help="auto, pixel (trained here), a diffusers DiT pipeline folder, or a Hub id."
        ),
    ] = None
    revision: Annotated[str | None, typer.Option(help="Commit or branch of --base.")] = None
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Allow the Hub to be asked for a model or dataset that is not here."
        ),
    ] = False
    minimax: Annotated[
        Literal["default", "reference", "printed"] | None,
        typer.Option(
            help="Form of the minimax criteria: ours, the released code's, or the paper's."
        ),
    ] = None
    no_finetune: Annotated[
        bool,
        typer.Option("--no-finetune", help="Sample the base as it is."),
    ] = False
    no_select: Annotated[
        bool,
        typer.Option("--no-select", help="Take the first candidates."),
    ] = False
    no_refine: Annotated[
        bool,
        typer.Option("--no-refine", help="Keep the chosen images."),
    ] = False
    no_soft_labels: Annotated[
        bool,
        typer.Option("--no-soft-labels", help="Hard labels only."),
    ] = False
    controls: Annotated[
        bool | None,
        typer.Option(
            "--controls/--no-controls",
            help="Whether real images and plain samples are judged too. Default: yes, while the "
            "evaluation is at most a third of the job.",
        ),
    ] = None
    students: Annotated[
        int | None,
        typer.Option(help="Students per image set. Default: 3."),
    ] = None
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Judge by a published protocol: dc-small, dc-small-plain, hard-idc, soft-rded or "
            "robust-rdd. Default: ours, a small student."
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of an operation; part of what fixes the bytes. Default: cores."),
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any field of the configuration, such as refine.num_steps=40; the value is JSON "
            "or plain text. Goes over the options. May be repeated.",
        ),
    ] = None


def with_request(verb: Callable[..., None]) -> Callable[..., None]:
    """Return `verb` with its parameter `request` spread out into the options above."""
    return with_options(verb, "request", RequestOptions)


def with_options(verb: Callable[..., None], name: str, kind: type) -> Callable[..., None]:
    """Return `verb` with one parameter spread out into options, before its own ones.

    Args:
        verb: The function of a verb.
        name: Of the parameter.
        kind: Its dataclass, whose fields are annotated as typer asks; one without a default is
            required.
    """
    fields = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=field.type,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
        )
        for field in dataclasses.fields(kind)
    ]  # fmt: skip
    own = [p for key, p in inspect.signature(verb).parameters.items() if key != name]
    parameters = [*fields, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]

    @functools.wraps(verb)
    def spread(**values: Any) -> None:
        asked = {field.name: values.pop(field.name) for field in fields}
        verb(**{name: kind(**asked)}, **values)

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {p.name: p.annotation for p in parameters}
    return spread


def request_of(options: RequestOptions) -> dict[str, Any]:
    """Return the nested dict of what the user set.

    Raises:
        ConfigError: If `--set` cannot be read.
    """
    request: dict[str, Any] = {}
    for path, value in _fields(options):
        if value is not None:
            _put(request, path, value)
    for text in options.set_ or ():
        path, value = _assignment(text)
        _put(request, path, value)
    threads = request.get("num_threads")
    if isinstance(threads, int) and not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"--threads must be 1 to {MAX_THREADS}, got {threads}")
    return request


def _fields(o: RequestOptions) -> list[tuple[str, Any]]:
    """Return (path of the configuration, value) of each option; None: not set."""
    return [
        ("data.dataset", o.dataset),
        ("images_per_class", o.ipc),
        ("preset", o.preset),
        ("seed", o.seed),
        ("image_size", o.image_size),
        ("horizontal_flip", o.flip),
        ("num_threads", o.threads),
        ("base.reference", o.base),
        ("base.revision", o.revision),
        ("base.allow_download", o.download or None),
        ("data.allow_download", o.download or None),
        ("finetune.preset", o.minimax),
        ("finetune.enabled", False if o.no_finetune else None),
        ("select.method", "random" if o.no_select else None),
        ("refine.enabled", False if o.no_refine else None),
        ("label.enabled", False if o.no_soft_labels else None),
        ("evaluate.controls", o.controls),
        ("evaluate.num_seeds", o.students),
        ("evaluate.protocol", o.protocol),
    ]


def _assignment(text: str) -> tuple[str, Any]:
    """Return path and value of `path.to.field=value`."""
    path, separator, value = text.partition("=")
    if not separator or not all(path.split(".")):
        raise ConfigError(f"--set takes FIELD=VALUE, for example refine.num_steps=40, got {text!r}")
    try:
        return path, json.loads(value, parse_constant=_no_constant)
    except RecursionError as error:
        raise ConfigError(f"the value of --set {path} is nested too deep") from error
    except ValueError:  # not JSON, so plain text
        return path, value


def _no_constant(name: str) -> Any:
    """Refuse NaN and infinities, which are not JSON and no setting."""
    raise ConfigError(f"a setting cannot be {name}")


def _put(request: dict[str, Any], path: str, value: Any) -> None:
    """Set a nested field."""
    *parents, name = path.split(".")
    place = request
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {path}: {parent!r} is a value and has no fields")
    place[name] = value


def default_folder(request: dict[str, Any]) -> Path:
    """Return where a job goes that named no folder: `runs/digits-ipc10-seed0`."""
    reference = str(request.get("data", {}).get("dataset", "digits"))
    try:
        path = Path(reference).expanduser()
        name = path.resolve().name if path.exists() else reference
    except (OSError, ValueError, RuntimeError):  # no path at all; the plan says what is wrong
        name = reference
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:80] or "dataset"
    ipc, seed = request.get("images_per_class", 10), request.get("seed", 0)
    smoke = "-smoke" if request.get("preset") == "smoke" else ""
    return Path("runs") / f"{name}-ipc{ipc}{smoke}-seed{seed}"
