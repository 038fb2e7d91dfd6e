"""The reader refuses every file that is not a whole, consistent bundle, and says why."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.read import decode_bundle, read_bundle
from distillery.bundle.write import encode_bundle
from distillery.errors import BundleError

Header = dict[str, Any]


def take_apart(content: bytes) -> tuple[Header, bytes]:
    """Return (header, tensor bytes) of a file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(header: Header | list | bytes, body: bytes) -> bytes:
    """Return the file with this header, which may be JSON text already."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edited(content: bytes, edit: Callable[[Header], object]) -> bytes:
    """Return the file with its header changed in place by `edit`."""
    header, body = take_apart(content)
    edit(header)
    return put_together(header, body)


def metadata(**changes: Any) -> Callable[[bytes], bytes]:
    """Return what sets these metadata entries, or removes those that are None."""

    def change(content: bytes) -> bytes:
        header, body = take_apart(content)
        values = {**header["__metadata__"], **changes}
        header["__metadata__"] = {k: v for k, v in values.items() if v is not None}
        return put_together(header, body)

    return change


def tensor(name: str, **changes: Any) -> Callable[[bytes], bytes]:
    """Return what sets these fields of one tensor's entry."""
    return lambda content: edited(content, lambda header: header[name].update(changes))


def values(name: str, dtype: str, index: int, value: float) -> Callable[[bytes], bytes]:
    """Return what overwrites one value of one tensor, leaving the header as it is."""

    def change(content: bytes) -> bytes:
        header, body = take_apart(content)
        start, end = header[name]["data_offsets"]
        array = np.frombuffer(body[start:end], dtype).copy()
        array[index] = value
        return put_together(header, body[:start] + array.tobytes() + body[end:])

    return change


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: edited(content, lambda h: h.__setitem__(new, h.pop(old)))


def header_text(edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return what changes the raw bytes of the header."""

    def change(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        return put_together(edit(content[8 : 8 + length]), content[8 + length :])

    return change


def moved_apart(header: Header) -> None:
    """Leave a gap of four bytes before the last tensor."""
    header["weights"]["data_offsets"] = [n + 4 for n in header["weights"]["data_offsets"]]


def overlapping(header: Header) -> None:
    """Let one tensor lie over another of its size."""
    header["seeds"]["data_offsets"] = header["labels"]["data_offsets"]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    # not a safetensors file at all
    "empty": (lambda _: b"", "begins with 8 bytes of header length, got 0 bytes"),
    "only a length": (lambda c: c[:8], "the header claims .* bytes, the file has 0 left"),
    "a ZIP file": (lambda _: b"PK\x03\x04" + bytes(60), "the header may take 1048576 bytes"),
    "header too long": (
        lambda c: struct.pack("<Q", (1 << 20) + 1) + c[8:],
        "may take 1048576 bytes, it claims 1048577",
    ),
    "length of 2^64 - 1": (lambda c: b"\xff" * 8 + c[8:], "it claims 18446744073709551615"),
    "header beyond the end": (
        lambda c: struct.pack("<Q", len(c)) + c[8:],
        "the header claims .* bytes",
    ),
    # a header that is not our JSON
    "not UTF-8": (header_text(lambda t: b"\xff" + t[1:]), "the header is not UTF-8"),
    "not JSON": (header_text(lambda t: b"hello"), "the header is not valid JSON"),
    "a list": (header_text(lambda t: b"[]"), "must be a JSON object, got list"),
    "nested too deeply": (header_text(lambda t: b"[" * 200_000), "nested too deeply"),
    "NaN in the header": (
        header_text(lambda t: t.replace(b'"shape":[12]', b'"shape":[NaN]', 1)),
        "holds NaN, which is not JSON",
    ),
    "a number of 9000 digits": (
        header_text(lambda t: t.replace(b'"shape":[12]', b'"shape":[' + b"9" * 9000 + b"]", 1)),
        "digits",
    ),
    "a tensor named twice": (
        header_text(lambda t: t.replace(b'"seeds":', b'"labels":', 1)),
        "the header names 'labels' twice",
    ),
    "a field named twice": (
        header_text(lambda t: t.replace(b'"dtype":"U8"', b'"dtype":"U8","dtype":"U8"', 1)),
        "names 'dtype' twice",
    ),
    # metadata
    "no metadata": (lambda c: edited(c, lambda h: h.pop("__metadata__")), "no __metadata__"),
    "metadata not text": (metadata(ipc=3), "metadata 'ipc' must be text, got int"),
    "another schema": (metadata(schema="distilled-dataset/2"), "must be 'distilled-dataset/1'"),
    "no class table": (metadata(classes=None), "metadata 'classes' is missing"),
    "class table not a list": (metadata(classes='{"a": 1}'), "must be a JSON list"),
    "class table not JSON": (metadata(classes="a, b"), "metadata 'classes' is not valid JSON"),
    "class without a name": (metadata(classes='["a", "b", "c", ""]'), "must be non-empty text"),
    "class that is a number": (metadata(classes='["a", "b", "c", 4]'), "must be non-empty text"),
    "class named twice": (metadata(classes='["a", "b", "c", "a"]'), "distinct, got 'a' twice"),
    "class with half a letter": (
        metadata(classes='["a", "b", "c", "\\ud800"]'),
        "must be valid Unicode",
    ),
    "metadata with half a letter": (metadata(note="\ud800"), "must be valid Unicode"),
    "no classes": (metadata(classes="[]"), "at least 1 names, got 0"),
    "one class too few": (metadata(classes='["a", "b", "c"]'), r"must have shape \(9"),
    "IPC not a number": (metadata(ipc="-3"), "'ipc' must be a whole number above 0, got '-3'"),
    "IPC of many digits": (metadata(ipc="9" * 5000), "must be a whole number above 0"),
    "IPC that does not fit": (metadata(ipc="4"), r"must have shape \(16"),
    "scores without a name": (metadata(score_names='["fit"]'), r"shape \(12, 1\), got \(12, 2\)"),
    "image size that does not fit": (metadata(image_size="7"), "says \"7\", the tensors say '5'"),
    "colour that does not fit": (metadata(channel_order="L"), "'channel_order' says \"L\""),
    "not marked synthetic": (metadata(synthetic="false"), "'synthetic' says \"false\""),
    "another source": (
        metadata(digital_source_type="http://x/digitalCapture"),
        "'digital_source_type' must be one of .*, got 'http://x/digitalCapture'",
    ),
    "real images marked synthetic": (
        metadata(digital_source_type="unknown"),
        "'synthetic' says \"true\", the tensors say 'false'",
    ),
    "mean of one channel": (metadata(norm_mean="[0.5]"), "norm_mean must be 3 finite numbers"),
    "infinite mean": (metadata(norm_mean="[1e999, 0, 0]"), "norm_mean must be 3 finite numbers"),
    "endless mean": (
        metadata(norm_mean=f"[1{'0' * 400}, 0, 0]"),
        "norm_mean must be 3 finite numbers",
    ),
    "std of zero": (metadata(norm_std="[0, 1, 1]"), "norm_std must be above 0"),
    "mean without std": (metadata(norm_std=None), "norm_mean and norm_std together"),
    # tensors: names, dtypes, shapes, places
    "a tensor is missing": (
        lambda c: edited(c, lambda h: h.pop("weights")),
        "the tensors take .* bytes, the file holds",
    ),
    "a tensor of another name": (renamed("weights", "weight"), "tensor 'weight' is unknown"),
    "a path as name": (renamed("weights", "../../etc/passwd"), "is unknown"),
    "unknown dtype": (tensor("weights", dtype="F8_E4M3"), "unknown dtype 'F8_E4M3'"),
    "dtype that is a list": (tensor("weights", dtype=["F32"]), "unknown dtype"),
    "another dtype": (tensor("weights", dtype="I32"), "must have dtype F32, got I32"),
    "an entry of other fields": (tensor("weights", extra=1), "must have dtype, shape and data"),
    "an entry that is text": (
        lambda c: edited(c, lambda h: h.update(weights="F32")),
        "must have dtype, shape and data_offsets",
    ),
    "shape of the wrong length": (tensor("weights", shape=[13]), "takes 52 bytes"),
    "shape of another order": (tensor("images", shape=[12, 5, 5, 3]), "must be square with 1 or 3"),
    "one axis too many": (tensor("labels", shape=[12, 1]), r"shape \(12,\), got \(12, 1\)"),
    "negative shape": (tensor("weights", shape=[-12]), "whole numbers as shape"),
    "a shape of true": (tensor("weights", shape=[True]), "whole numbers as shape"),
    "huge shape": (tensor("images", shape=[1 << 62, 1 << 62]), "its data_offsets span"),
    "three offsets": (tensor("weights", data_offsets=[0, 48, 96]), "two data_offsets, got 3"),
    "offsets backwards": (tensor("weights", data_offsets=[48, 0]), "its data_offsets span -48"),
    "offsets beyond the end": (
        tensor("weights", data_offsets=[1 << 40, (1 << 40) + 48]),
        "must begin at byte",
    ),
    "tensors with a gap": (lambda c: edited(c, moved_apart), "must begin at byte"),
    "tensors that overlap": (lambda c: edited(c, overlapping), "must begin at byte"),
    "cut short": (lambda c: c[:-1], "the tensors take .* bytes, the file holds"),
    "bytes after the end": (lambda c: c + b"\0", "the tensors take .* bytes, the file holds"),
    # values
    "label out of range": (values("labels", "<i8", 11, 4), r"must lie in 0\.\.3 for 4 classes"),
    "negative label": (values("labels", "<i8", 0, -1), r"got -1\.\.3"),
    "labels not sorted": (values("labels", "<i8", 0, 2), "image 0 has label 2 instead of 0"),
    "NaN weight": (values("weights", "<f4", 3, np.nan), "'weights' must hold finite numbers"),
    "infinite score": (values("scores", "<f4", 3, np.inf), "'scores' must hold finite numbers"),
    "NaN logit": (values("teacher_logits", "<f2", 3, np.nan), "'teacher_logits' must hold finite"),
    "negative weight": (values("weights", "<f4", 3, -0.5), "weights must be 0 or more, got -0.5"),
    "cluster of -2": (values("cluster_ids", "<i4", 3, -2), "cluster_ids must be -1 or more"),
    "one pixel changed": (values("images", "u1", 7, 201), "'content_digest' says"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_one_sentence(name: str, dataset: DistilledDataset) -> None:
    break_it, sentence = BROKEN[name]

    with pytest.raises(BundleError) as caught:
        decode_bundle(break_it(encode_bundle(dataset)), name="d.safetensors")

    message = str(caught.value)
    assert re.search(sentence, message), message
    assert message.startswith("d.safetensors: ") and "\n" not in message
    assert message.endswith("fetch it again or distil again")
    assert len(message) < 400


def test_the_parts_put_together_unbroken_are_read(dataset: DistilledDataset) -> None:
    """The table above breaks what would otherwise be read: also with another order of keys."""
    header, body = take_apart(encode_bundle(dataset))
    backwards = dict(reversed(header.items()))
    assert decode_bundle(put_together(backwards, body)).classes == dataset.classes


def test_every_cut_and_every_flipped_header_byte_is_a_bundle_error_or_harmless(
    dataset: DistilledDataset,
) -> None:
    content = encode_bundle(dataset)
    header_end = 8 + int.from_bytes(content[:8], "little")
    for end in range(0, len(content), 97):
        with pytest.raises(BundleError):
            decode_bundle(content[:end])
    for place in range(0, header_end, 3):
        changed = bytearray(content)
        changed[place] ^= 0x15
        try:
            decode_bundle(bytes(changed))  # a letter of a class name may change
        except BundleError:
            continue


def test_a_long_header_of_repeated_names_is_refused_at_once(dataset: DistilledDataset) -> None:
    """Looking for the name that comes twice must not take quadratic time."""
    entries = ",".join(f'"{i}":0' for i in range(80_000))
    text = f'{{{entries},"79999":0}}'.encode()
    assert len(text) < 1 << 20
    with pytest.raises(BundleError, match="names '79999' twice"):
        decode_bundle(put_together(text, b""))


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(BundleError, match="is not a file: name a bundle"):
            read_bundle(path)
