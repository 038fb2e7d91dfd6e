"""Canonical safetensors files: equal content, equal bytes; readable by the stock library."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from distillery.tensorfile import (
    DTYPES,
    encode_header,
    encode_tensors,
    map_tensors,
    read_header,
    read_tensors,
    write_tensors,
)

ARRAYS = {
    "images": np.arange(7, dtype=np.uint8),  # odd length: what follows is not aligned
    "labels": np.array([[1, -2], [3, 4]], np.int64),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float64),
    "mask": np.array([True, False]),
    "half": np.array([1.5], np.float16),
    "ids": np.array([-1], np.int32),
}


def test_arrays_and_metadata_come_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", ARRAYS, {"name": "\u5b57", "a": "b"})
    arrays, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"name": "\u5b57", "a": "b"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_the_stock_library_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", ARRAYS)
    stock = load_file(tmp_path / "ours")
    assert all(np.array_equal(stock[name], array) for name, array in ARRAYS.items())
    save_file(ARRAYS, tmp_path / "stock", {"k": "v"})
    arrays, metadata = read_tensors(tmp_path / "stock")
    assert metadata == {"k": "v"}
    assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())


def test_bytes_depend_on_content_alone() -> None:
    back = dict(reversed(ARRAYS.items()))
    assert encode_tensors(ARRAYS, {"a": "1", "b": "2"}) == encode_tensors(
        back, {"b": "2", "a": "1"}
    )
    strided = {"x": np.arange(12).reshape(3, 4).T}
    assert encode_tensors(strided) == encode_tensors({"x": strided["x"].copy(order="C")})
    assert encode_tensors(strided) != encode_tensors({"x": strided["x"] + 1})


def test_tensors_start_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(8):
        metadata = {"pad": "x" * length}
        write_tensors(tmp_path / "x", {"a": np.zeros(1)}, metadata)
        assert read_header(tmp_path / "x")[2] % 8 == 0


def test_a_header_alone_describes_the_same_file() -> None:
    shapes = {name: (array.dtype, array.shape) for name, array in ARRAYS.items()}
    assert encode_tensors(ARRAYS).startswith(encode_header(shapes, {}))


def test_maps_are_read_only_and_lazy(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", ARRAYS)
    mapped = map_tensors(tmp_path / "x")
    assert isinstance(mapped["labels"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped["labels"][0, 0] = 9


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.zeros(1, ">i4"), np.array(["a"])])
def test_other_dtypes_are_refused_by_name(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="dtype of 'odd' must be one of"):
        encode_tensors({"odd": array})


def test_every_dtype_of_the_table_round_trips(tmp_path: Path) -> None:
    arrays = {name: np.ones(3, dtype) for name, dtype in DTYPES.items()}
    write_tensors(tmp_path / "x", arrays)
    assert {n: a.dtype for n, a in load_file(tmp_path / "x").items()} == dict(DTYPES)
