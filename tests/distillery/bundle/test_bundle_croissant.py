"""`croissant.json`: the shape that Croissant 1.1 asks for, and nothing that changes by itself."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillery.bundle.croissant import CONTEXT, croissant
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.folder import verify_folder, write_bundle_folder
from distillery.files import json_bytes

pq = pytest.importorskip("pyarrow.parquet")

REPORT: dict[str, Any] = {
    "dataset": {"reference": "owner/name", "kind": "hub", "revision": "abc123"},
    "licences": [
        {"what": "source images", "licence": "cc-by-4.0"},
        {"what": "base model", "licence": "cc-by-nc-4.0"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path, dataset: DistilledDataset) -> Path:
    write_bundle_folder(tmp_path / "out", dataset, report=REPORT, files={})
    return tmp_path / "out"


@pytest.fixture
def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "croissant.json").read_text())


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON-LD node, but nothing of the context and of plain data."""
    if isinstance(value, dict):
        yield value
        for key, each in value.items():
            if key not in ("@context", "data"):
                yield from nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from nodes(each)


def test_what_the_specification_requires_is_there(described: dict[str, Any]) -> None:
    assert described["@type"] == "sc:Dataset"
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    for name in ("name", "description", "license", "distribution", "recordSet", "version"):
        assert described[name], name
    for node in nodes(described):
        for key in node:
            prefix, _, rest = key.partition(":")
            is_ours = key.startswith("@") or key in CONTEXT or (rest and prefix in CONTEXT)
            schema_org = re.fullmatch(r"[a-z][A-Za-z0-9]*", key)
            assert is_ours or schema_org, key


def test_ids_are_unique_and_every_reference_has_its_node(described: dict[str, Any]) -> None:
    named = [node["@id"] for node in nodes(described) if "@id" in node and "@type" in node]
    assert len(named) == len(set(named))
    references = [
        node["@id"] for node in nodes(described)
        if set(node) == {"@id"} and not node["@id"].startswith("https://")
    ]  # fmt: skip
    assert references and set(references) <= set(named)


def test_files_have_the_digests_of_the_files(folder: Path, described: dict[str, Any]) -> None:
    files = {entry["contentUrl"]: entry for entry in described["distribution"]}
    assert set(files) == {
        "distilled.safetensors", "data/train-00000-of-00001.parquet", "report.json"
    }  # fmt: skip
    for name, entry in files.items():
        content = (folder / name).read_bytes()
        assert entry["@type"] == "cr:FileObject" and entry["encodingFormat"]
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["contentSize"] == f"{len(content)} B"


def test_fields_are_the_columns_and_labels_point_at_the_classes(
    folder: Path, described: dict[str, Any], dataset: DistilledDataset
) -> None:
    classes, train = described["recordSet"]
    columns = pq.read_schema(folder / "data" / "train-00000-of-00001.parquet").names
    assert [field["source"]["extract"]["column"] for field in train["field"]] == columns
    label = next(field for field in train["field"] if field["name"] == "label")
    assert "cr:Label" in label["dataType"]
    assert label["references"] == {"field": {"@id": "classes/index"}}
    assert classes["dataType"] == "sc:Enumeration" and classes["key"] == {"@id": "classes/index"}
    assert [row["classes/name"] for row in classes["data"]] == list(dataset.classes)
    assert [row["classes/index"] for row in classes["data"]] == list(range(len(dataset.classes)))


def test_origin_and_licences_are_told(described: dict[str, Any]) -> None:
    licences = {row["description"]: row["name"] for row in described["license"]}
    assert licences == {
        "licence of the source images": "cc-by-4.0", "licence of the base model": "cc-by-nc-4.0"
    }  # fmt: skip
    data, _ = described["prov:wasDerivedFrom"]
    assert (data["name"], data["version"]) == ("owner/name", "abc123")
    assert described["prov:wasGeneratedBy"]["@type"] == "prov:Activity"
    told = [key for key in described if key.startswith("rai:")]
    assert len(told) == 5 and all(described[key] for key in told)


@pytest.mark.parametrize(
    ("origin", "word"),
    [("generated", "TrainedAlgorithmicMedia"), ("refined", "AlgorithmicallyEnhanced"),
     ("real", None)],
)  # fmt: skip
def test_images_are_marked_as_what_they_are(
    make_dataset: Callable[..., DistilledDataset], origin: Any, word: str | None
) -> None:
    found = croissant(make_dataset(origin=origin), None, {})
    assert (word or "") in found.get("digitalSourceType", {"@id": ""})["@id"]
    assert ("digitalSourceType" in found) == (word is not None)
    assert [row["name"] for row in found["license"]] == ["cc-by-nc-4.0", "unknown"]


def test_equal_bundles_give_equal_bytes_and_a_change_is_found(
    tmp_path: Path, folder: Path, dataset: DistilledDataset
) -> None:
    write_bundle_folder(tmp_path / "again", dataset, report=REPORT, files={})
    content = (folder / "croissant.json").read_bytes()
    assert content == (tmp_path / "again" / "croissant.json").read_bytes()
    assert content == json_bytes(json.loads(content))
    assert str(tmp_path).encode() not in content
    assert "croissant.json" in json.loads((folder / "manifest.json").read_text())["files"]
    (folder / "croissant.json").write_bytes(content + b" ")
    assert any("croissant.json was changed" in finding for finding in verify_folder(folder))
