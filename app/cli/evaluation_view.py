"""The text of `distillery evaluate`: the protocol before the work, the table after it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.console import clean
from app.cli.results import figure, show_table
from distillery.wording import counted

if TYPE_CHECKING:
    from rich.console import Console


def show_setting(console: "Console", name: str, protocol: dict[str, Any]) -> None:
    """Print which students will be trained, and what is not as published."""
    from rich.text import Text

    console.print(
        Text.assemble(
            ("Evaluating ", "bold"),
            (clean(name), "bold cyan"),
            (" by ", "bold"),
            (protocol["name"], "bold cyan"),
            f": {protocol['summary']} ({protocol['source']})",
        )  # fmt: skip
    )
    for network, recipe in protocol["recipes"].items():
        count = protocol["num_repeats"]
        students, epochs = counted(count, "student"), counted(recipe["num_epochs"], "epoch")
        console.print(f"  {network}: {students}, {epochs}, batch {recipe['batch_size']}")
    for text in protocol["deviations"]:
        console.print(Text(f"  ! not as published: {clean(text)}", style="yellow"))


def show_evaluation(console: "Console", found: dict[str, Any], result: Path | None) -> None:
    """Print the tables of a result, hard and soft labels apart."""
    from rich.text import Text

    protocol, distilled, dataset = found["protocol"], found["set"], found["dataset"]
    status = "as published" if protocol["is_published"] else "not as published"
    console.print(
        Text.assemble(
            (clean(distilled["name"]), "bold"),
            f": {_count(distilled)} in each of {distilled['num_classes']} classes, "
            f"{protocol['image_size']} px; {dataset['num_test']} test images of "
            f"{clean(dataset['reference'])}",
        )
    )
    repeats = protocol["num_repeats"]
    spread = ", mean ± std" * (repeats > 1)
    console.print(f"Protocol {protocol['name']}, {status}; last epoch, per cent{spread}")
    for kind in ("hard", "soft"):
        rows = found["results"][kind]
        if rows:
            console.print()
            show_table(console, rows, f"Trained on {kind} labels")
            _show_best(console, rows)
    for text in [*protocol["deviations"], *found["notes"]]:
        console.print(Text(f"  ! {clean(text)}", style="yellow"))
    if result is not None:
        console.print(f"result in {clean(result)}", soft_wrap=True)


def _count(distilled: dict[str, Any]) -> str:
    """Return the images per class."""
    fewest, most = distilled["fewest_per_class"], distilled["images_per_class"]
    return counted(most, "image") if fewest == most else f"{fewest} to {most} images"


def _show_best(console: "Console", rows: list[dict[str, Any]]) -> None:
    """Print the best epochs, under a heading that says how they were chosen."""
    best = [row for row in rows if row.get("best")]
    if best:
        console.print("\n  Best epoch, chosen on the test split: no measure of what to expect")
    for row in best:
        console.print(f"    {clean(row['label'])}  {figure(row['best'])}")
