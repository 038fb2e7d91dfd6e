"""A distilled dataset to the bytes of `distilled.safetensors`.

Equal content gives equal bytes: keys are sorted, nothing of time, place or person goes in. Any
safetensors library reads the file; `read` is the reader that also checks it.
"""

import json
from pathlib import Path

from distillery.bundle import schema
from distillery.bundle.dataset import DistilledDataset
from distillery.files import write_bytes
from distillery.tensorfile import encode_tensors


def bundle_metadata(dataset: DistilledDataset) -> dict[str, str]:
    """Return the whole metadata of a bundle: what the schema asks for and the dataset's own."""
    mean, std = dataset.normalisation
    factor = dataset.formation_factor
    packed = {"formation_factor": str(factor)} if factor > 1 else {}
    return packed | {
        "norm_mean": json.dumps(mean),
        "norm_std": json.dumps(std),
        **dataset.metadata,
        "channel_order": "RGB" if dataset.images.shape[1] == 3 else "L",
        "classes": json.dumps(dataset.classes, ensure_ascii=False),
        "content_digest": dataset.content_digest,
        "digital_source_type": schema.SOURCE_TYPES[dataset.origin],
        "format": "pt",
        "image_size": str(dataset.images.shape[-1]),
        "ipc": str(dataset.images_per_class),
        "schema": schema.SCHEMA,
        "score_names": json.dumps(dataset.score_names, ensure_ascii=False),
        "synthetic": "true" if dataset.origin == "generated" else "false",
    }


def encode_bundle(dataset: DistilledDataset) -> bytes:
    """Return the canonical bytes of a dataset's bundle.

    Raises:
        ValueError: If the class table and metadata are too long for the reader's header limit.
    """
    content = encode_tensors(dataset.arrays(), bundle_metadata(dataset))
    header_bytes = int.from_bytes(content[:8], "little")
    if header_bytes > schema.MAX_HEADER_BYTES:
        raise ValueError(
            f"class table and metadata must fit into {schema.MAX_HEADER_BYTES} bytes, "
            f"got {header_bytes}: shorten the metadata"
        )
    return content


def write_bundle(path: Path, dataset: DistilledDataset) -> None:
    """Write a dataset's bundle to `path`, whole or not at all."""
    write_bytes(path, encode_bundle(dataset))
