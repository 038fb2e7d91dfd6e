"""`distillery show`: what is in a bundle: header, classes, figures, and the images themselves.

Needs numpy only. On a terminal each character shows two pixels, one above the other.
"""

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from app.cli.console import clean, out
from app.cli.display import write_event
from app.cli.verify import PathArgument, bundle_of
from app.settings import read_settings
from distillery.bundle.read import read_bundle

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from distillery.bundle.dataset import DistilledDataset

MAX_CLASSES = 20
"""Rows of the class table and the grid."""
MAX_SIDE = 16
"""Pixels of an image in the grid; larger ones are scaled down."""


def show_verb(
    path: PathArgument,
    classes: Annotated[int, typer.Option(min=1, help="Classes to show.")] = MAX_CLASSES,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show what is in a bundle.

    Verifies it first. Prints where it comes from, its classes and figures, and on a terminal a
    grid of its images.

    Example: distillery show runs/digits-ipc10-seed0/bundle
    """
    settings = read_settings()
    data = read_bundle(bundle_of(path))
    if as_json:
        write_event("bundle", facts(data))
        return
    console = out(settings)
    console.print(header(data))
    console.print(class_table(data, classes))
    if console.is_terminal and console.color_system is not None:
        _print_grid(console, data, classes)


def facts(data: "DistilledDataset") -> dict[str, object]:
    """Return what a bundle says of itself."""
    _, channels, height, width = data.images.shape
    return {
        "images": len(data),
        "images_per_class": data.images_per_class,
        "shape": [channels, height, width],
        "classes": list(data.classes),
        "pictures_per_image": data.pictures_per_image,
        "soft_labels": data.teacher_logits is not None,
        "score_names": list(data.score_names),
        "content_digest": data.content_digest,
        "metadata": dict(data.metadata),
    }


def header(data: "DistilledDataset") -> "Table":
    """Return where the bundle comes from, line by line."""
    from rich.table import Table
    from rich.text import Text

    _, channels, height, width = data.images.shape
    colour = "gray" if channels == 1 else "RGB"
    size = data.images.nbytes / 1e3
    lines = {
        "images": f"{len(data)}: {len(data.classes)} classes x {data.images_per_class}, "
        f"{height} x {width} {colour}, {size:,.0f} kB",
        "pictures": _pictures(data),
        "soft labels": "yes" if data.teacher_logits is not None else "no",
        "digest": data.content_digest,
    } | {name.replace("_", " "): value for name, value in sorted(data.metadata.items())}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in lines.items():
        grid.add_row(clean(name), Text(clean(value)))
    return grid


def _pictures(data: "DistilledDataset") -> str:
    factor = data.formation_factor
    if factor == 1:
        return "one in each image"
    return f"{factor} x {factor} in each image; load(...).views() cuts them out"


def class_table(data: "DistilledDataset", limit: int) -> "Table":
    """Return the classes with the mean of their scores and brightness."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", justify="right")
    table.add_column("name", overflow="ellipsis", max_width=40)
    table.add_column("brightness", justify="right")
    table.add_column("clusters", justify="right")
    for name in data.score_names:
        table.add_column(clean(name), justify="right")
    shown = range(min(limit, len(data.classes)))
    for label in shown:
        own = data.labels == label
        scores = [f"{value:.3f}" for value in data.scores[own].mean(0)]
        table.add_row(
            str(label), Text(clean(data.classes[label])), f"{data.images[own].mean() / 255:.2f}",
            str(len(set(data.cluster_ids[own].tolist()))), *scores,
        )  # fmt: skip
    left_out = len(data.classes) - len(shown)
    if left_out > 0:
        table.caption = f"{left_out} more classes: --classes {len(data.classes)}"
    return table


def _print_grid(console: "Console", data: "DistilledDataset", limit: int) -> None:
    """Print the images of each class under its name; several classes a line where they are few."""
    from rich.cells import set_cell_size
    from rich.text import Text

    side = min(MAX_SIDE, data.images.shape[-1])
    columns = min(data.images_per_class, max(1, console.width // (side + 1)))
    block = columns * (side + 1)
    shown = min(limit, len(data.classes))
    per_line = max(1, console.width // block)
    for start in range(0, shown, per_line):
        labels = range(start, min(start + per_line, shown))
        names = [set_cell_size(clean(data.classes[label]), block - 1) + " " for label in labels]
        console.print(Text("".join(names), style="bold"), no_wrap=True, crop=True)
        own = [label * data.images_per_class + rank for label in labels for rank in range(columns)]
        for line in grid_lines([small(data.images[index], side) for index in own]):
            console.print(line, no_wrap=True, crop=True)
    if columns < data.images_per_class:
        console.print(f"{columns} of {data.images_per_class} images of each class are shown")


def small(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image, uint8 (C, H, W), as RGB (side, side, 3) with an even number of rows."""
    from PIL import Image

    pixels = np.repeat(image, 3, axis=0) if len(image) == 1 else image  # (3, H, W)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))  # (H, W, 3)
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BOX)
    array = np.asarray(picture)
    return np.pad(array, ((0, side % 2), (0, 0), (0, 0)))


def grid_lines(images: list[np.ndarray]) -> list["Text"]:
    """Return lines of half blocks that show RGB images (H, W, 3) side by side."""
    from rich.text import Text

    lines = []
    for top in range(0, images[0].shape[0], 2):
        line = Text()
        for image in images:
            for upper, lower in zip(image[top], image[top + 1], strict=True):
                line.append("▀", f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
            line.append(" ")
        lines.append(line)
    return lines


def _rgb(pixel: np.ndarray) -> str:
    return ",".join(str(int(value)) for value in pixel)
