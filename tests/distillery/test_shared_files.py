"""Files are whole or absent; equal content has equal bytes and digests."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from distillery.files import (
    digest_arrays,
    digest_file,
    digest_json,
    json_bytes,
    read_json,
    write_bytes,
    write_json,
)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": "\u00fc"})
    assert read_json(path) == {"b": "\u00fc"}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_a_write_that_dies_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    write_bytes(tmp_path / "x", b"1")
    assert order == ["sync", "rename", "sync"]  # content, name, the folder that holds the name


def test_json_does_not_depend_on_the_order_of_keys() -> None:
    assert json_bytes({"b": [1, 2], "a": None}) == json_bytes({"a": None, "b": [1, 2]})
    assert digest_json({"b": 1, "a": 2}) == digest_json({"a": 2, "b": 1})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_it_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_bytes({"loss": value})


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_digest_of_arrays_sees_names_dtypes_shapes_and_values() -> None:
    array = np.arange(6, dtype=np.int32)
    digests = {
        digest_arrays(arrays)
        for arrays in (
            {"a": array},
            {"b": array},
            {"a": array.reshape(2, 3)},
            {"a": array.view(np.uint32)},
            {"a": array + 1},
            {"a": array, "empty": np.zeros((0, 3))},
        )
    }
    assert len(digests) == 6
    assert digest_arrays({"x": array, "a": array}) == digest_arrays({"a": array, "x": array})


def test_digest_of_an_array_does_not_depend_on_its_memory_layout() -> None:
    array = np.arange(6).reshape(2, 3)
    assert digest_arrays({"a": array}) == digest_arrays({"a": np.asfortranarray(array)})
