"""`distillery export`: a bundle as PNG files or Parquet, or a job's fine-tuned base as a model."""

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.console import clean, out
from app.cli.local import start_local
from app.cli.verify import PathArgument, bundle_of
from app.settings import read_settings
from distillery.bundle.read import read_bundle
from distillery.errors import ConfigError
from distillery.files import expand_user
from distillery.machine import quick_imports


def export_verb(
    path: PathArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    to: Annotated[
        Literal["imagefolder", "parquet", "diffusers"],
        typer.Option("--to", help="PNG files by class, a Parquet file, or the fine-tuned base."),
    ],
) -> None:
    """Write a bundle in another form.

    imagefolder is what torchvision's ImageFolder and load_dataset("imagefolder") read; parquet is
    what load_dataset(OUT) reads, with the names of the classes. diffusers takes the folder of a
    job in place of a bundle, and writes its fine-tuned base: a pipeline that stock diffusers
    samples, or for a pixel base a folder that --base takes.

    Example: distillery export runs/digits-ipc10-seed0/bundle --to imagefolder digits-10
    """
    if to == "diffusers":
        _export_base(path, target)
        return
    from distillery.bundle.export import export_imagefolder, export_parquet

    settings = read_settings()
    if to == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow, which is not installed: pip install pyarrow")
    data, target = read_bundle(bundle_of(path)), expand_user(target)
    (export_imagefolder if to == "imagefolder" else export_parquet)(data, target)
    text = f"{len(data)} images"
    if data.formation_factor > 1:
        pictures = f"{len(data) * data.pictures_per_image} pictures"
        text = f"the {pictures} of {text}" if to == "imagefolder" else f"{text} with {pictures}"
    out(settings).print(f"{text} in {clean(target)}", soft_wrap=True)


def _export_base(folder: Path, target: Path) -> None:
    """Write the fine-tuned base of a job to a new folder."""
    start_local()
    with quick_imports():
        from generator.export import export_finetuned

    settings = read_settings()
    written = export_finetuned(expand_user(folder), expand_user(target), cache=settings.cache)
    for place in written:
        out(settings).print(f"fine-tuned base in {clean(place)}", soft_wrap=True)
