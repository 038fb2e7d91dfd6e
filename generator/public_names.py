"""Names that may leave this machine: no bundle tells where its maker keeps files."""

import os
from pathlib import PurePath
from typing import Any

from distillery.data.sources.hub import parse_hub_reference


def public_name(reference: str) -> str:
    """Return a dataset's or base's own name, without the folders that lead to it.

    A built-in name stays as it is, and a Hub id `org/name` unless a file or folder here is meant.
    """
    if parse_hub_reference(reference, None) is not None and not os.path.exists(reference):
        return reference
    parts = PurePath(reference).parts
    return parts[-1] if parts else reference


def public_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration dict with public names in place of paths."""
    return values | {
        "data": values["data"] | {"dataset": public_name(values["data"]["dataset"])},
        "base": values["base"] | {"reference": public_name(values["base"]["reference"])},
        "select": values["select"] | {"features": public_name(values["select"]["features"])},
        "label": values["label"] | {"teacher": public_name(values["label"]["teacher"])},
    }
