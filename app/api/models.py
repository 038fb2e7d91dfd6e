"""The base models that a job can name."""

from typing import Any

from app.settings import Settings
from distillery.models.config import PUBLISHED_BASES


def base_models(settings: Settings) -> list[dict[str, Any]]:
    """Return `pixel` and the published bases, with whether their weights are in the Hub's cache."""
    pixel = {
        "object": "model", "id": "pixel", "kind": "pixel", "image_size": None, "licence": None,
        "non_commercial": False, "is_here": True,
    }  # fmt: skip
    published = [
        {
            "object": "model", "id": name, "kind": "latent", "image_size": base.image_size,
            "licence": base.licence, "non_commercial": base.non_commercial,
            "is_here": is_here(settings, name),
        }
        for name, base in PUBLISHED_BASES.items()
    ]  # fmt: skip
    return [pixel, *published]


def is_here(settings: Settings, name: str) -> bool:
    """Say whether the Hub's cache has a snapshot of a model."""
    folder = settings.hub_cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())
