"""The `distillery` command: its verbs, and the one place where errors become exit codes.

Nothing here or in the verbs' modules imports torch before a verb needs it, so that help is fast.
"""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from app.cli import (
    cache,
    doctor,
    download,
    estimate,
    evaluate,
    export,
    jobs,
    keys,
    pretrain,
    run,
    serve,
    show,
    verify,
    worker,
)
from app.cli.console import clean
from app.cli.failures import crash, exit_code, is_expected, sentence
from app.settings import read_settings

HELP = """Turn an image dataset into a few images per class that train a network almost as well.

Example: distillery run --preset smoke
"""
GROUPS = {
    "jobs": "Jobs of a service: DISTILLERY_URL and DISTILLERY_API_KEY, or the one on this machine.",
    "keys": "Keys and login links of a service, on the machine of its database.",
}
"""What the help says of each group of verbs."""


ACTIVE_GROUPS = ("cache",)
"""Groups that do something without a further verb."""


def verbs() -> dict[str, Callable[..., None]]:
    """Return the verbs by name, in the order of the help; `jobs ps` is a verb of the group jobs."""
    return {
        "run": run.run_verb,
        "estimate": estimate.estimate_verb,
        "pretrain": pretrain.pretrain_verb,
        "evaluate": evaluate.evaluate_verb,
        "show": show.show_verb,
        "verify": verify.verify_verb,
        "export": export.export_verb,
        "doctor": doctor.doctor_verb,
        "serve": serve.serve_verb,
        "worker": worker.worker_verb,
        **jobs.verbs(),
        "download": download.download_verb,
        **cache.verbs(),
        **keys.verbs(),
    }


def build_app() -> typer.Typer:
    """Return the command with all its verbs."""
    app = _group("distillery", HELP)
    app.callback()(_version_option)
    groups = {"": app}
    for name, function in verbs().items():
        group, _, verb = name.rpartition(" ")
        if group not in groups:
            groups[group] = _group(group, GROUPS[group])
            app.add_typer(groups[group])
        if name in ACTIVE_GROUPS:  # a group that does something by itself
            groups[name] = _group(name, inspect.getdoc(function) or "", has_own=True)
            groups[name].callback(invoke_without_command=True)(function)
            app.add_typer(groups[name])
        else:
            groups[group].command(verb)(function)
    return app


def _group(name: str, text: str, *, has_own: bool = False) -> typer.Typer:
    """Return a command that holds others, and may do something by itself."""
    return typer.Typer(
        name=name, help=text, no_args_is_help=not has_own, add_completion=False,
        pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["--help", "-h"]},
    )  # fmt: skip


def _print_version(is_asked: bool) -> None:
    """Print the version and leave."""
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"distillery {version('distillery')}")
        raise typer.Exit


def _version_option(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options that stand before a verb; the help of the command is `HELP`."""


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every error ends as one sentence on stderr."""
    try:
        command = typer.main.get_command(build_app())
        code = command.main(list(arguments), prog_name="distillery", standalone_mode=False)
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not at interpreter exit
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _discard_output()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own, for options it cannot read
            return _fail(_usage(error), 2)
        if not is_expected(error):
            error = crash(error, [read_settings().cache])
        return _fail(sentence(error), exit_code(error))


def _usage(error: Exception) -> str:
    """Return typer's complaint as a sentence that names the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "distillery"
    message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    return f"{message}; see {command} --help"


def _fail(text: str, code: int) -> int:
    """Print one sentence on stderr, if anyone reads it."""
    try:
        prefix = "" if code == 130 else "error: "  # who stopped it knows that it is none
        print(f"{prefix}{clean(text)}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _discard_output()
    return code


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that leaving does not fail once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def main() -> None:
    """Run the command with the arguments of this process; the console script."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
