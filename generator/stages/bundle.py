"""Stage bundle: the product. Tensors, Parquet, card, Croissant, report, preview, checksums."""

import json
from typing import Any

import numpy as np

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.folder import write_bundle_folder
from distillery.bundle.preview import preview_png
from distillery.files import digest_json
from distillery.tensorfile import read_tensors
from generator.config import DistillConfig, key_dict
from generator.origin import image_origin, word_of
from generator.public_names import public_config, public_name
from generator.report import build_report
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import open_reals
from generator.stages.label import LOGITS
from generator.stages.refine import REFINED

FOLDER = "bundle"


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return everything: the configuration is part of the bundle."""
    return {"config": key_dict(config)}


def run(context: Context) -> StageOutput:
    """Write the bundle folder, whole."""
    dataset = distilled_dataset(context)
    from distillery.evaluation.report_page import report_html

    report = build_report(context)
    preview = preview_png(dataset.images, dataset.labels, dataset.classes)
    folder = context.folder / FOLDER
    if not folder.exists():  # a run killed after this line finds it whole
        files = {
            "preview.png": preview,
            "report.html": report_html(report, preview_png=preview).encode(),
        }
        write_bundle_folder(folder, dataset, report=report, files=files)
    digest = dataset.content_digest
    size = (folder / "distilled.safetensors").stat().st_size
    summary = f"{len(dataset)} images, {size / 1024:.0f} KiB, content digest {digest[:16]}"
    return StageOutput(summary, {"content_digest": digest})


def distilled_dataset(context: Context) -> DistilledDataset:
    """Return the result with its provenance."""
    config, reals = context.config, open_reals(context)
    refined, _ = read_tensors(context.inputs["refine"] / REFINED)
    logits = None
    if context.facts("label")["enabled"]:
        logits = read_tensors(context.inputs["label"] / LOGITS)[0]["logits"]
    base = context.facts("base")
    metadata = {
        "source_dataset": public_name(config.data.dataset),
        "source_fingerprint": reals.dataset.fingerprint,
        "base_model": public_name(config.base.reference),
        "base_digest": base["digest"],
        "base_licence": base["licence"] or "none attached",
        "config_digest": digest_json(public_config(key_dict(config))),
        "start": word_of(context),
        "norm_mean": json.dumps(reals.normalisation.mean),
        "norm_std": json.dumps(reals.normalisation.std),
        "seed": str(config.seed),
    }
    return DistilledDataset(
        images=refined["images"],
        labels=refined["labels"],
        weights=np.ones(len(refined["labels"]), np.float32),
        cluster_ids=refined["cluster_ids"],
        scores=refined["scores"],
        seeds=refined["seeds"],
        teacher_logits=logits,
        classes=reals.dataset.class_names,
        images_per_class=config.images_per_class,
        formation_factor=config.refine.factor,
        origin=image_origin(context),
        score_names=tuple(context.facts("score")["score_names"]),
        metadata=metadata,
    )


STAGE = Stage(
    "bundle", 4,
    ("prepare", "base", "finetune", "generate", "score", "refine", "label", "evaluate"),
    settings, run,
)  # fmt: skip
