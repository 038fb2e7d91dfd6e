"""The base models that a job can name."""

from pathlib import Path
from typing import Any

from app.api.names import NAME
from app.settings import Settings
from distillery.errors import ModelError
from distillery.models.config import PUBLISHED_BASES, forbids_commercial_use
from distillery.models.shelf import LocalPipeline, check_whole, local_pipelines, pipeline_facts


def base_models(settings: Settings) -> list[dict[str, Any]]:
    """Return `pixel`, the published bases, and other DiT pipelines that are here and whole.

    Those are in the Hub's cache, or in the folder of models and named by their own folder.
    """
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
    others = [
        each for each in local_pipelines(settings.hub_cache, settings.models)
        if each.name not in PUBLISHED_BASES and (each.revision or NAME.fullmatch(each.name))
    ]  # fmt: skip
    return [pixel, *published, *filter(None, map(_described, others))]


def _described(pipeline: LocalPipeline) -> dict[str, Any] | None:
    """Return a pipeline that is here, None where it is broken."""
    try:
        facts = pipeline_facts(pipeline.folder, pipeline.name)
        check_whole(pipeline.folder)
    except ModelError:
        return None
    return {
        "object": "model", "id": pipeline.name, "kind": "latent", "image_size": facts.image_size,
        "licence": facts.licence, "is_here": True,
        "non_commercial": forbids_commercial_use(pipeline.reference, facts.licence),
    }  # fmt: skip


def find_model(settings: Settings, name: str) -> Path | None:
    """Return the folder of a base in the folder of models, None where there is none."""
    if settings.models is None or NAME.fullmatch(name) is None:
        return None
    folder = settings.models / name
    return folder if folder.is_dir() and not folder.is_symlink() else None


def is_here(settings: Settings, name: str) -> bool:
    """Say whether the Hub's cache has a snapshot of a model."""
    folder = settings.hub_cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())
