"""Other forms of a distilled dataset: a tree of PNG files and a Parquet file.

The tree is what torchvision's `ImageFolder` and `load_dataset("imagefolder")` read; it holds no
metadata file, because `datasets` drops the folder labels when it sees one. The Parquet file
carries the class table in its schema. Every PNG says in its XMP that a model made or altered it;
real images as they are carry no mark.
"""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.schema import SOURCE_TYPES, Origin
from distillery.errors import BundleError
from distillery.files import sync_folder

PARQUET_NAME = "data/train-00000-of-00001.parquet"
ROWS_PER_GROUP = 100  # what the Hub's viewer asks of image columns

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="%s"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


def encode_png(image: np.ndarray, origin: Origin = "generated") -> bytes:
    """Return one image, uint8 (C, H, W), as a PNG that is marked as made or altered by a model."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, C)
    mark = PngImagePlugin.PngInfo()
    if origin != "real":
        mark.add_itxt("XML:com.adobe.xmp", _XMP % SOURCE_TYPES[origin])
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", pnginfo=mark)
    return buffer.getvalue()


def class_folder(index: int, name: str, num_classes: int) -> str:
    """Return a folder name such as `0003_tabby_cat`: it sorts by index, whatever the name holds.

    Letters and digits of any script stay; everything else becomes one underscore.
    """
    width = max(4, len(str(num_classes - 1)))
    kept = "".join(character if character.isalnum() else " " for character in name)
    # a path part may take 255 bytes, and letters may take four
    return f"{index:0{width}d}_{'_'.join(kept.split())[:40]}".rstrip("_")


def export_imagefolder(dataset: DistilledDataset, folder: Path) -> None:
    """Write a tree `0000_name/00000.png`, for any loader of class folders.

    Packed images are written as the pictures that they hold, which is what loaders train on.

    Raises:
        BundleError: If `folder` exists.
    """
    with_new_folder(folder, lambda partial: _write_tree(dataset, partial))


def _write_tree(dataset: DistilledDataset, folder: Path) -> None:
    images, _ = dataset.views()
    per_class = dataset.images_per_class * dataset.pictures_per_image
    for label, name in enumerate(dataset.classes):
        place = folder / class_folder(label, name, len(dataset.classes))
        place.mkdir()
        for rank in range(per_class):
            image = images[label * per_class + rank]
            (place / f"{rank:05d}.png").write_bytes(encode_png(image, dataset.origin))


def export_parquet(dataset: DistilledDataset, folder: Path) -> None:
    """Write `data/train-00000-of-00001.parquet`, which `load_dataset(folder)` reads with its names.

    Raises:
        BundleError: If `folder` exists.
    """

    def fill(partial: Path) -> None:
        (partial / PARQUET_NAME).parent.mkdir()
        with open(partial / PARQUET_NAME, "wb") as file:
            write_parquet(dataset, file)

    with_new_folder(folder, fill)


def write_parquet(dataset: DistilledDataset, file: IO[bytes]) -> None:
    """Write the dataset to `file` as Parquet in the layout of Hugging Face's `datasets`.

    Packed images are written as they are stored.

    Columns: image (bytes, path), label (ClassLabel), weight, cluster_id, seed, one column
    `score_<name>` for each score, and teacher_logits where the bundle has them.
    """
    import pyarrow.parquet as pq  # here, so that reading a bundle does not need pyarrow

    columns = _columns(dataset)
    schema = _parquet_schema(dataset, columns)
    with pq.ParquetWriter(file, schema, compression="snappy") as writer:
        for start in range(0, len(dataset), ROWS_PER_GROUP):
            rows = range(start, min(start + ROWS_PER_GROUP, len(dataset)))
            writer.write_table(_parquet_rows(dataset, columns, schema, rows))


def _columns(dataset: DistilledDataset) -> dict[str, np.ndarray]:
    """Return the plain columns by name, in the order of the file."""
    columns = {
        "label": dataset.labels,
        "weight": dataset.weights,
        "cluster_id": dataset.cluster_ids,
        "seed": dataset.seeds,
    }
    for index, name in enumerate(dataset.score_names):
        columns[f"score_{name}"] = dataset.scores[:, index]
    return columns


def _parquet_schema(dataset: DistilledDataset, columns: dict[str, np.ndarray]) -> Any:
    import pyarrow as pa

    features: dict[str, dict[str, Any]] = {"image": {"_type": "Image"}}
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    for name, values in columns.items():
        features[name] = {"dtype": str(values.dtype), "_type": "Value"}
        fields.append(pa.field(name, pa.from_numpy_dtype(values.dtype)))
    features["label"] = {"names": list(dataset.classes), "_type": "ClassLabel"}
    if dataset.teacher_logits is not None:
        logit = {"dtype": "float16", "_type": "Value"}
        # "Sequence" is the spelling that old and new versions of `datasets` both read
        features["teacher_logits"] = {"feature": logit, "_type": "Sequence"}
        fields.append(pa.field("teacher_logits", pa.list_(pa.float16())))
    facts = {"info": {"features": features}}
    return pa.schema(fields, {"huggingface": json.dumps(facts, sort_keys=True)})


def _parquet_rows(
    dataset: DistilledDataset, columns: dict[str, np.ndarray], schema: Any, rows: range
) -> Any:
    import pyarrow as pa

    pngs = ((i, encode_png(dataset.images[i], dataset.origin)) for i in rows)
    images = [{"bytes": png, "path": f"{i:06d}.png"} for i, png in pngs]
    part = slice(rows.start, rows.stop)
    arrays = [pa.array(images, schema.field("image").type)]
    arrays += [pa.array(np.ascontiguousarray(values[part])) for values in columns.values()]
    if dataset.teacher_logits is not None:
        logits = list(dataset.teacher_logits[part])
        arrays.append(pa.array(logits, schema.field("teacher_logits").type))
    return pa.Table.from_arrays(arrays, schema=schema)


def with_new_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder beside `folder`, then give it its name: whole or not at all.

    Raises:
        BundleError: If `folder` exists; it is never emptied.
    """
    if folder.exists() or folder.is_symlink():
        raise BundleError(f"{folder} exists already: name a new folder, or move that one away")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process of this number left
    partial.mkdir()
    try:
        fill(partial)
        sync_folder(partial)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(folder.parent)
