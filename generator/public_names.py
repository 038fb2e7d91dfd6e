"""Names that may leave this machine: no bundle tells where its maker keeps files."""

from pathlib import PurePath
from typing import Any


def public_name(reference: str) -> str:
    """Return a dataset's or base's own name, without the folders that lead to it.

    A Hub id `org/name` and a built-in name stay as they are.
    """
    parts = PurePath(reference).parts
    is_path = len(parts) > 2 or reference[:1] in "./~" or "\\" in reference
    return parts[-1] if parts and is_path else reference


def public_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration dict with public names in place of paths."""
    return values | {
        "data": values["data"] | {"dataset": public_name(values["data"]["dataset"])},
        "base": values["base"] | {"reference": public_name(values["base"]["reference"])},
        "select": values["select"] | {"features": public_name(values["select"]["features"])},
        "label": values["label"] | {"teacher": public_name(values["label"]["teacher"])},
    }
