"""What the JSON files and the card of a model folder say, read before its weights.

No torch and no diffusers: plans and estimates look at models with this file alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.errors import ModelError
from distillery.files import read_json

FACTS_FILE = "distillery.json"
"""What diffusers' files do not say: classes, where the base came from, its licence and digest."""
PIPELINE_FILE = "model_index.json"
SCHEDULER_FILE = "scheduler/scheduler_config.json"


def read_facts(path: Path) -> dict[str, Any]:
    """Return a JSON object of a model folder.

    Raises:
        ModelError: If the file is missing or holds no JSON object.
    """
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be a JSON file of a model, got: {error}") from error
    if not isinstance(facts, Mapping):
        raise ModelError(f"{path} must hold a JSON object, got {type(facts).__name__}")
    return dict(facts)


def read_labels(path: Path) -> dict[int, str]:
    """Return the row labels in a pipeline's `model_index.json`; there may be none.

    Raises:
        ModelError: If they are not names by row number.
    """
    labels = read_facts(path).get("id2label") or {}
    if not isinstance(labels, Mapping) or not all(str(row).isdecimal() for row in labels):
        raise ModelError(f"id2label in {path} must give names by row numbers, got {labels!s:.60}")
    return {int(row): str(name) for row, name in labels.items()}


def read_licence(folder: Path) -> str | None:
    """Return the licence in the front matter of a folder's model card, if it says one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
