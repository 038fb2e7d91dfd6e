"""Packed images: decoded as refinement decodes them, marked in the file, shown and exported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import distillery
from distillery.bundle.card import card_text
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import export_imagefolder
from distillery.bundle.formation import decode_pictures
from distillery.bundle.read import decode_bundle
from distillery.bundle.write import bundle_metadata, encode_bundle, write_bundle
from distillery.data.normalise import Normalisation
from distillery.errors import BundleError
from robust.parameters import MultiFormation

STATISTICS = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (0.0, 0.0, 0.0))


@pytest.mark.parametrize(("factor", "side"), [(2, 32), (3, 32), (3, 9), (2, 7)])
def test_pictures_are_what_refinement_sees(factor: int, side: int) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (3, 3, side, side), dtype=np.uint8)
    packing = MultiFormation(STATISTICS.clamp, factor)
    wanted = STATISTICS.to_raw(packing.decode(STATISTICS.normalise(torch.from_numpy(raw)))).numpy()
    pictures = decode_pictures(raw, factor, STATISTICS.mean)
    assert pictures.shape == wanted.shape == (3 * factor**2, 3, side, side)
    assert np.abs(pictures.astype(int) - wanted).max() <= 1


def test_a_picture_by_hand() -> None:
    image = np.array([[[[0, 40, 200, 200], [80, 120, 200, 200], [8, 8, 0, 0], [8, 8, 0, 0]]]])
    pictures = decode_pictures(image.astype(np.uint8), 2, (0.0,))
    assert pictures[0, 0, 0].tolist() == [0, 10, 30, 40]  # areas of 2 on 4: quarters in between
    assert pictures[0, 0, :, 0].tolist() == [0, 20, 60, 80]
    assert [int(one.mean()) for one in pictures[1:, 0]] == [200, 8, 0]  # row by row


@pytest.fixture
def packed(make_dataset: Callable[..., DistilledDataset]) -> DistilledDataset:
    return make_dataset(size=6, formation_factor=2, teacher_logits=None)


def test_a_packed_bundle_says_so_and_gives_its_pictures(
    packed: DistilledDataset, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "distilled.safetensors", packed)
    data = distillery.load(tmp_path / "distilled.safetensors")
    assert (data.formation_factor, data.pictures_per_image) == (2, 4)
    images, labels = data.views()
    assert images.shape == (len(packed) * 4, 3, 6, 6)
    assert np.array_equal(labels, np.repeat(packed.labels, 4))
    assert "4 pictures in each" in repr(data)
    pair = data.torch()
    assert len(pair) == len(images)
    assert np.array_equal(pair.tensors[0].numpy(), images)
    assert "holds 2 x 2 pictures" in card_text(data, None)
    export_imagefolder(data, tmp_path / "tree")
    assert len(list((tmp_path / "tree").rglob("*.png"))) == len(images)


def test_a_plain_bundle_says_nothing_of_it(dataset: DistilledDataset) -> None:
    assert "formation_factor" not in bundle_metadata(dataset)
    assert "pictures in each" not in repr(dataset)
    images, labels = dataset.views()
    assert images is dataset.images and np.array_equal(labels, dataset.labels)


@pytest.mark.parametrize("factor", ["1", "4", "02", "two"])
def test_another_factor_is_refused_by_the_reader(packed: DistilledDataset, factor: str) -> None:
    content = encode_bundle(packed)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    broken = header.replace(b'"formation_factor":"2"', f'"formation_factor":"{factor}"'.encode())
    assert broken != header
    with pytest.raises(BundleError, match="'formation_factor' must be 2 or 3, got"):
        decode_bundle(len(broken).to_bytes(8, "little") + broken + content[8 + length :])


def test_what_packed_images_cannot_have_is_refused(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    with pytest.raises(ValueError, match="packed images have no teacher_logits"):
        make_dataset(formation_factor=2)
    with pytest.raises(ValueError, match="formation_factor must be 1, 2 or 3, got 4"):
        make_dataset(formation_factor=4, teacher_logits=None)
    with pytest.raises(ValueError, match="'formation_factor' is filled in by the writer"):
        make_dataset(metadata={"formation_factor": "2"})
