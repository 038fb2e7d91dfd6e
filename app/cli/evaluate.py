"""`distillery evaluate`: a distilled set, ours or anybody's, judged by a published protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import err, out
from app.cli.display import write_event
from app.cli.evaluate_options import EvaluateOptions, overrides_of, request_for
from app.cli.evaluation_view import show_evaluation, show_setting
from app.cli.local import start_local
from app.cli.options import with_options
from app.cli.running import crashes_logged, json_errors, with_display
from app.settings import Settings, read_settings
from distillery.errors import ConfigError
from distillery.files import write_json
from distillery.machine import probe, quick_imports

if TYPE_CHECKING:
    from generator.distilled_set import DistilledSet
    from generator.evaluation import Request

EXPECTED_S = {"prepare": 1.0, "teacher": 10.0, "evaluate": 60.0}
"""Weights of the phases for the bars, before anything is measured."""


def verb(
    options: EvaluateOptions,
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
        overrides = overrides_of(options)
        _check_out(result)
        start_local()
        with crashes_logged([settings.cache]):
            with quick_imports():
                from generator.distilled_set import open_distilled

            distilled = open_distilled(options.path)
            request = request_for(options, overrides, distilled)
            _evaluate(distilled, request, result, settings, as_json=as_json)


evaluate_verb = with_options(verb, "options", EvaluateOptions)


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
