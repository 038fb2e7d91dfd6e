"""`distillery export`: a bundle as a tree of PNG files or as Parquet."""

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.console import clean, out
from app.cli.verify import PathArgument
from app.settings import read_settings
from distillery.bundle.read import read_bundle
from distillery.errors import ConfigError


def export_verb(
    path: PathArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")],
    to: Annotated[
        Literal["imagefolder", "parquet"],
        typer.Option("--to", help="A folder of PNG files for each class, or a Parquet file."),
    ],
) -> None:
    """Write a bundle in another form.

    imagefolder is what torchvision's ImageFolder and load_dataset("imagefolder") read; parquet is
    what load_dataset(OUT) reads, with the names of the classes.

    Example: distillery export runs/digits-ipc10-seed0/bundle --to imagefolder digits-10
    """
    from distillery.bundle.export import export_imagefolder, export_parquet

    settings = read_settings()
    if to == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow, which is not installed: pip install pyarrow")
    data, target = read_bundle(path.expanduser()), target.expanduser()
    (export_imagefolder if to == "imagefolder" else export_parquet)(data, target)
    out(settings).print(f"{len(data)} images in {clean(target)}", soft_wrap=True)
