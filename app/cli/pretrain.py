"""`distillery pretrain`: train a small diffusion transformer on a dataset, for later runs."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import planning
from app.cli.console import clean, err, out
from app.cli.display import write_event
from app.cli.local import start_local
from app.cli.options import RequestOptions, request_of, with_options
from app.cli.running import crashes_logged, json_errors, with_display
from app.settings import Settings, read_settings
from distillery.errors import ConfigError
from distillery.files import expand_user
from distillery.machine import probe, quick_imports

if TYPE_CHECKING:
    from generator.config import DistillConfig
    from generator.stage import Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainOptions:
    """What a user may say about a base; None where nothing was said."""

    dataset: Annotated[
        str, typer.Argument(help="As for run: digits, a folder, an archive, a Hub id, ...")
    ]
    steps: Annotated[
        int | None, typer.Option(help="Training steps. Default: 1200 to 16 px, else 4000.")
    ] = None
    base_seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise.")] = 0
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels. Default: 8 to 32, by the data."),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="As for run, which must use the same. Default: the cores.")
    ] = None
    download: Annotated[
        bool, typer.Option("--download", help="Allow the Hub to be asked for the dataset.")
    ] = False


def verb(
    options: PretrainOptions,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Also copy the base into this new folder."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout, and nothing else.")
    ] = False,
) -> None:
    """Train a small pixel DiT on your images.

    It lies in the cache, where every run on the same images finds it; with --out it is also a
    folder for --base, in the layout of diffusers. A run that was stopped goes on when the same
    command is repeated.

    Example: distillery pretrain ~/photos --out photo-base
    """
    settings = read_settings()
    with json_errors(as_json):
        asked = _asked(options)
        out_folder = expand_user(out_folder) if out_folder else None
        if out_folder is not None and out_folder.exists():
            raise ConfigError(f"{out_folder} exists already: name a new folder with --out")
        start_local()
        with crashes_logged([settings.cache]):
            base = _train(asked, settings, as_json=as_json)
            _finish(base, out_folder, settings, as_json=as_json)


pretrain_verb = with_options(verb, "options", PretrainOptions)


def _asked(options: PretrainOptions) -> dict[str, Any]:
    """Return the request whose stages prepare and base are to be run."""
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"--steps must be 1 or more, got {options.steps}")
    as_run = RequestOptions(
        dataset=options.dataset, ipc=1, base="pixel", image_size=options.image_size,
        threads=options.threads, download=options.download,
    )  # fmt: skip
    asked = request_of(as_run)
    pretraining = {"base_seed": options.base_seed}
    asked["base"]["pretrain"] = pretraining | (
        {"num_steps": options.steps} if options.steps else {}
    )
    return asked


def _train(asked: dict[str, Any], settings: Settings, *, as_json: bool) -> "Finished":
    """Plan, and run the stages prepare and base; returns the latter."""
    with quick_imports():
        from generator.choose_base import ASKED_FOR
        from generator.pipeline import STAGES, compute_as
        from generator.plan import make_plan
        from generator.stage import run_stage

    plan = make_plan(asked, cache=settings.cache, machine=probe())
    if not as_json:
        planning.show_pretraining(err(settings), plan)
    config: DistillConfig = plan.config
    compute_as(config)
    stages = [stage for stage in STAGES if stage.name in ("prepare", "base")]
    done: dict[str, Finished] = {}
    names = [stage.name for stage in stages]
    with with_display(names, {"base": 50.0}, settings, as_json=as_json) as show:
        for stage in stages:
            done[stage.name] = run_stage(
                stage, config, done, root=settings.cache, on_progress=show.on_progress
            )
            show.on_stage(done[stage.name])
    (done["base"].folder / ASKED_FOR).touch()
    return done["base"]


def _finish(
    base: "Finished", out_folder: Path | None, settings: Settings, *, as_json: bool
) -> None:
    """Copy the base where that was asked for, and say where it is."""
    from distillery.bundle.export import with_new_folder

    place = base.folder / "base"
    if out_folder is not None:

        def fill(partial: Path) -> None:
            shutil.copytree(base.folder / "base", partial, dirs_exist_ok=True)

        with_new_folder(out_folder, fill)
        place = out_folder
    facts = base.record["facts"]
    if as_json:
        kept = {name: facts[name] for name in ("digest", "judge_accuracy", "num_parameters")}
        write_event("result", {"base": str(place)} | kept)
        return
    console = out(settings)
    console.print(f"base  {clean(place)}", soft_wrap=True)
    if out_folder is not None:
        line = f"use   distillery run DATASET --base {out_folder}"
    else:
        line = "Runs on the same images find it in the cache."
    console.print(clean(line), soft_wrap=True)
