"""`distillery evaluate`: a distilled set, ours or anybody's, judged by a published protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.console import err, out
from app.cli.display import write_event
from app.cli.evaluation_view import show_evaluation, show_setting
from app.cli.local import start_local
from app.cli.running import crashes_logged, json_errors, with_display
from app.settings import Settings, read_settings
from distillery.errors import ConfigError
from distillery.evaluation.protocols import PROTOCOLS, find_protocol
from distillery.evaluation.setting import Overrides
from distillery.files import write_json

if TYPE_CHECKING:
    from generator.distilled_set import DistilledSet
    from generator.evaluation import Request

SMALL_IMAGE = 64
"""Up to this size the protocol of small images is the default."""
EXPECTED_S = {"prepare": 1.0, "teacher": 10.0, "evaluate": 60.0}
"""Weights of the phases for the bars, before anything is measured."""
NAMES = ", ".join(PROTOCOLS)


def evaluate_verb(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE_OR_FOLDER",
            help="A bundle, the folder of a job, or any distilled set as a folder of class folders "
            "(or archive, Parquet, safetensors).",
        ),
    ],
    protocol: Annotated[
        str | None,
        typer.Option(help=f"{NAMES}. Default: dc-small up to 64 px, hard-idc beyond."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Whose test split judges. Default: what the bundle was made from."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Student, such as convnet-d3-w128, alexnet, vgg11, resnet18, resnetap10, vit; "
            "may be repeated. Default: the protocol's."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, in place of the protocol's.")] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Students of each network, in place of the protocol's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images a step, in place of the protocol's.")
    ] = None,
    teacher: Annotated[
        Literal["train", "bundle"] | None,
        typer.Option(
            help="Soft labels: of a teacher trained on the train split, or those in the bundle. "
            "Default: train."
        ),
    ] = None,
    teacher_epochs: Annotated[
        int | None, typer.Option(help="Epochs of that teacher. Default: 50.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Dataset of unseen classes, for retrieval and fine-tuning.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps that bring the classes, for continual. Default: 5.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Whether a mirrored image is as good. Default: yes for colour, no for gray.",
        ),
    ] = None,
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Show the best epoch too, which is then chosen on the test split."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Root of the students' seeds.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of an operation. Default: cores.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: the GPU where there is one.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Allow the Hub to be asked for the dataset.")
    ] = False,
    result: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result there as JSON.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout, and nothing else.")
    ] = False,
) -> None:
    """Judge a distilled set by a published protocol.

    Trains students on the set and tests them on the real test split. Figures are of the last
    epoch, mean and spread over students. Options that scale a protocol down are allowed, and the
    result then says what is not as published. A stopped evaluation goes on at the next student
    when the same command is repeated; more --repeats or --network add to what is there.

    Example: distillery evaluate runs/digits-ipc10-seed0 --protocol robust-rdd --repeats 2
    """
    settings = read_settings()
    with json_errors(as_json):
        find_protocol(protocol or "dc-small")
        overrides = Overrides(
            networks=tuple(network or ()), num_epochs=epochs, num_repeats=repeats,
            batch_size=batch_size, num_stages=steps,
        )  # fmt: skip
        _check_out(result)
        start_local()
        with crashes_logged([settings.cache]):
            from generator.distilled_set import open_distilled
            from generator.evaluation import Request

            distilled = open_distilled(path)
            request = Request(
                protocol=find_protocol(protocol or _default_protocol(distilled)),
                overrides=overrides, dataset=dataset, target=target, teacher=teacher,
                teacher_epochs=teacher_epochs, flip=flip, seed=seed, keep_best=best,
                allow_download=download, num_threads=threads, device=device,
            )  # fmt: skip
            _evaluate(distilled, request, result, settings, as_json=as_json)


def _default_protocol(distilled: "DistilledSet") -> str:
    """Return the protocol for images of this size."""
    return "dc-small" if distilled.images.shape[-1] <= SMALL_IMAGE else "hard-idc"


def _check_out(result: Path | None) -> None:
    """Refuse a result file that cannot be written, before any work."""
    if result is None:
        return
    if result.is_dir():
        raise ConfigError(f"--out names a file, {result} is a folder: add a name like result.json")
    if not result.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {result.absolute().parent} for --out: make it first")


def _evaluate(
    distilled: "DistilledSet", request: "Request", result: Path | None, settings: Settings, *,
    as_json: bool,
) -> None:  # fmt: skip
    """Say what will be done, do it, show what came out."""
    from distillery.evaluation.setting import describe
    from distillery.machine import probe
    from generator.evaluation import evaluate, fit

    setting = fit(distilled, request)
    if as_json:
        write_event("plan", {"set": distilled.name, "protocol": describe(setting)})
    else:
        show_setting(err(settings), distilled.name, describe(setting))
    phases = [name for name in EXPECTED_S if name != "teacher" or setting.protocol.labels == "soft"]
    with with_display(phases, EXPECTED_S, settings, as_json=as_json) as show:
        found: dict[str, Any] = evaluate(
            distilled, setting, request, cache=settings.cache, machine=probe(),
            on_progress=show.on_progress,
        )  # fmt: skip
    if result is not None:
        write_json(result.absolute(), found)
    if as_json:
        write_event("result", found)
    else:
        show_evaluation(out(settings), found, result)
