"""The bundle described for machines in Croissant 1.1: files, columns, classes, origin, limits.

Croissant does not know safetensors: that file is listed, and the fields are those of the Parquet
file. Equal bundles give equal bytes: no times, no places, no hosts.
Source: MLCommons Croissant format specification 1.1, Croissant RAI 1.0, W3C PROV.
"""

from collections.abc import Mapping
from typing import Any

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import PARQUET_NAME
from distillery.bundle.schema import FILE_NAME, Origin

CROISSANT_NAME = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
_TERMS = (
    "arrayShape", "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject",
    "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key",
    "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace",
    "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}  # fmt: skip
_FORMATS = {
    FILE_NAME: ("application/octet-stream", "The tensors, in one safetensors file."),
    PARQUET_NAME: ("application/x-parquet", "The same images and labels as a table."),
    "report.json": ("application/json", "Accuracy, groups and controls."),
}
"""Media type and description of the files that are listed."""
_SOURCE_TYPES: dict[Origin, str | None] = {
    "generated": "https://schema.org/TrainedAlgorithmicMediaDigitalSource",
    "refined": "https://schema.org/AlgorithmicallyEnhancedDigitalSource",
    "real": None,  # the source dataset does not say
}
_NEARNESS: dict[Origin, str] = {
    "generated": "a synthetic image may resemble a training image closely",
    "refined": "the training images can be recognised",
    "real": "these are the training images themselves",
}


def croissant(
    dataset: DistilledDataset,
    report: Mapping[str, Any] | None,
    digests: Mapping[str, tuple[str, int]],
) -> dict[str, Any]:
    """Return the description of a bundle as JSON-LD.

    Args:
        dataset: What was distilled.
        report: Content of `report.json`, for source and licences; None where there is none.
        digests: SHA-256 and size in bytes of the bundle's files by name.
    """
    facts = report or {}
    source = str((facts.get("dataset") or {}).get("reference") or "") or dataset.metadata.get(
        "source_dataset", "a dataset"
    )
    source_type = _SOURCE_TYPES[dataset.origin]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"{source}, distilled (IPC {dataset.images_per_class})",
        "description": (
            f"{len(dataset)} images in {len(dataset.classes)} classes, distilled from {source}: "
            "few enough to train a network in seconds."
        ),
        "version": "1.0.0",
        "isLiveDataset": False,
        "keywords": ["dataset-distillation", "image-classification"],
        "identifier": f"sha256:{dataset.content_digest}",
        "license": _licences(dataset, facts),
        **({"digitalSourceType": {"@id": source_type}} if source_type else {}),
        **_provenance(dataset, facts, source),
        **_responsibility(dataset),
        "distribution": [
            _file(name, *digests[name]) for name in sorted(_FORMATS) if name in digests
        ],
        "recordSet": [_classes(dataset), _images(dataset)],
    }


def _licences(dataset: DistilledDataset, facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the licences of source images and base; the strictest of them holds."""
    metadata = dataset.metadata
    rows = facts.get("licences") or [
        {"what": "source images", "licence": metadata.get("license") or "not stated"},
        {"what": "base model", "licence": metadata.get("base_licence") or "unknown"},
    ]
    return [
        {
            "@type": "sc:CreativeWork", "name": str(row.get("licence") or "unknown"),
            "description": f"licence of the {row['what']}",
        }
        for row in rows
    ]  # fmt: skip


def _provenance(dataset: DistilledDataset, facts: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what the images were made from, and by which job."""
    metadata = dataset.metadata
    revision = (facts.get("dataset") or {}).get("revision")
    data = {"@type": "prov:Entity", "name": source}
    data |= {"version": str(revision)} if revision else {}
    data |= _identified(metadata.get("source_fingerprint"))
    base = {"@type": "prov:Entity", "name": metadata.get("base_model", "a base model")}
    base |= _identified(metadata.get("base_digest"))
    job = {"@type": "prov:Activity", "name": "Distillery job"}
    job |= _identified(metadata.get("config_digest"))
    return {"prov:wasDerivedFrom": [data, base], "prov:wasGeneratedBy": job}


def _identified(digest: str | None) -> dict[str, str]:
    return {"identifier": f"sha256:{digest}"} if digest else {}


def _responsibility(dataset: DistilledDataset) -> dict[str, str]:
    """Return the fields of Croissant RAI."""
    return {
        "rai:dataUseCases": "Training and comparing image classifiers.",
        "rai:dataLimitations": "A summary of the source data for training: not a test set, and "
        "not a sample of it from which shares could be estimated.",
        "rai:dataBiases": "The biases of the source data and of the base model; groups that are "
        "rare in the source may be missing, see report.json.",
        "rai:machineAnnotationTools": "Labels are the classes that the images were made or chosen "
        "for; teacher_logits, where there are any, come from a network trained on the source.",
        "rai:personalSensitiveInformation": f"Distilled is not anonymous: "
        f"{_NEARNESS[dataset.origin]}.",
    }


def _file(name: str, digest: str, size_bytes: int) -> dict[str, Any]:
    media_type, text = _FORMATS[name]
    return {
        "@type": "cr:FileObject", "@id": name, "name": name, "description": text,
        "contentUrl": name, "contentSize": f"{size_bytes} B", "encodingFormat": media_type,
        "sha256": digest,
    }  # fmt: skip


def _classes(dataset: DistilledDataset) -> dict[str, Any]:
    """Return the class table."""
    fields = (
        ("index", "sc:Integer", "The label in the images' record set."),
        ("name", "sc:Text", "The name of the class."),
    )
    return {
        "@type": "cr:RecordSet", "@id": "classes", "name": "classes",
        "description": "The classes.", "dataType": "sc:Enumeration",
        "key": {"@id": "classes/index"},
        "field": [
            {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "description": text,
             "dataType": kind}
            for name, kind, text in fields
        ],
        "data": [
            {"classes/index": index, "classes/name": name}
            for index, name in enumerate(dataset.classes)
        ],
    }  # fmt: skip


def _images(dataset: DistilledDataset) -> dict[str, Any]:
    """Return the columns of the Parquet file."""
    label = _column("label", ["sc:Integer", "cr:Label"], "Index of the class.")
    fields = [
        _column("image", "sc:ImageObject", "The image as PNG.", {"jsonPath": "bytes"}),
        label | {"references": {"field": {"@id": "classes/index"}}},
        _column("weight", "sc:Float", "Training weight."),
        _column("cluster_id", "sc:Integer", "Cluster that the image stands for; -1 is none."),
        _column("seed", "sc:Integer", "Seed of the noise; -1 is none."),
    ]
    fields += [
        _column(f"score_{name}", "sc:Float", f"Score of the selection: {name}.")
        for name in dataset.score_names
    ]
    if dataset.teacher_logits is not None:
        logits = _column("teacher_logits", "sc:Float", "What a teacher says of each class.")
        fields.append(logits | {"isArray": True, "arrayShape": str(len(dataset.classes))})
    return {
        "@type": "cr:RecordSet", "@id": "train", "name": "train",
        "description": "The distilled images.", "field": fields,
    }  # fmt: skip


def _column(
    name: str, kind: str | list[str], text: str, transform: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a field that is a column of the Parquet file."""
    source: dict[str, Any] = {"fileObject": {"@id": PARQUET_NAME}, "extract": {"column": name}}
    if transform is not None:
        source["transform"] = dict(transform)
    return {
        "@type": "cr:Field", "@id": f"train/{name}", "name": name, "description": text,
        "dataType": kind, "source": source,
    }  # fmt: skip
