"""The options of `distillery evaluate`, and the request that they add up to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distillery.evaluation.protocols import PROTOCOLS, find_protocol
from distillery.evaluation.setting import Overrides

if TYPE_CHECKING:
    from generator.distilled_set import DistilledSet
    from generator.evaluation import Request

SMALL_IMAGE = 64
"""Up to this size the protocol of small images is the default."""
NAMES = ", ".join(PROTOCOLS)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """What a user may say about an evaluation; None where nothing was said."""

    path: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE_OR_FOLDER",
            help="A bundle, the folder of a job, or any distilled set as a folder of class folders "
            "(or archive, Parquet, safetensors).",
        ),
    ]
    protocol: Annotated[
        str | None,
        typer.Option(help=f"{NAMES}. Default: dc-small up to 64 px, hard-idc beyond."),
    ] = None
    dataset: Annotated[
        str | None,
        typer.Option(help="Whose test split judges. Default: what the bundle was made from."),
    ] = None
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Student, such as convnet-d3-w128, alexnet, vgg11, resnet18, resnetap10, vit; "
            "may be repeated. Default: the protocol's."
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(help="Epochs, in place of the protocol's.")] = None
    repeats: Annotated[
        int | None, typer.Option(help="Students of each network, in place of the protocol's.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step, in place of the protocol's.")
    ] = None
    teacher: Annotated[
        Literal["train", "bundle"] | None,
        typer.Option(
            help="Soft labels: of a teacher trained on the train split, or those in the bundle. "
            "Default: train."
        ),
    ] = None
    teacher_epochs: Annotated[
        int | None, typer.Option(help="Epochs of that teacher. Default: 50.")
    ] = None
    target: Annotated[
        str | None, typer.Option(help="Dataset of unseen classes, for retrieval and fine-tuning.")
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Steps that bring the classes, for continual. Default: 5.")
    ] = None
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Whether a mirrored image is as good. Default: yes for colour, no for gray.",
        ),
    ] = None
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Show the best epoch too, which is then chosen on the test split."
        ),
    ] = False
    seed: Annotated[int, typer.Option(help="Root of the students' seeds.")] = 0
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of an operation. Default: cores.")
    ] = None
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: the GPU where there is one.")
    ] = None
    download: Annotated[
        bool, typer.Option("--download", help="Allow the Hub to be asked for the dataset.")
    ] = False


def overrides_of(options: EvaluateOptions) -> Overrides:
    """Return what the options change of a protocol.

    Raises:
        ConfigError: If there is no such protocol, or no student can use a value.
    """
    find_protocol(options.protocol or "dc-small")
    return Overrides(
        networks=tuple(options.network or ()), num_epochs=options.epochs,
        num_repeats=options.repeats, batch_size=options.batch_size, num_stages=options.steps,
    )  # fmt: skip


def request_for(
    options: EvaluateOptions, overrides: Overrides, distilled: "DistilledSet"
) -> "Request":
    """Return the request for a set that has been opened; its size decides on the protocol."""
    from generator.evaluation import Request

    default = "dc-small" if distilled.images.shape[-1] <= SMALL_IMAGE else "hard-idc"
    return Request(
        protocol=find_protocol(options.protocol or default), overrides=overrides,
        dataset=options.dataset, target=options.target, teacher=options.teacher,
        teacher_epochs=options.teacher_epochs, flip=options.flip, seed=options.seed,
        keep_best=options.best, allow_download=options.download, num_threads=options.threads,
        device=options.device,
    )  # fmt: skip
