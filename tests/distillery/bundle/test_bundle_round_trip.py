"""What is written comes back the same, in the same bytes, for us and for other libraries."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import distillery
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.read import decode_bundle
from distillery.bundle.write import bundle_metadata, encode_bundle, write_bundle

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("images_per_class", [1, 3])
def test_a_bundle_comes_back_the_same(
    make_dataset: Callable[..., DistilledDataset], channels: int, images_per_class: int
) -> None:
    written = make_dataset(channels=channels, images_per_class=images_per_class)

    read = decode_bundle(encode_bundle(written))

    for name, array in written.arrays().items():
        np.testing.assert_array_equal(read.arrays()[name], array, err_msg=name)
        assert read.arrays()[name].dtype == array.dtype
        assert read.arrays()[name].flags.aligned and read.arrays()[name].flags.writeable
    assert read.classes == written.classes
    assert read.score_names == ("fit", "tail")
    assert read.metadata["license"] == "cc-by-nc-4.0"
    assert read.normalisation == written.normalisation
    assert encode_bundle(read) == encode_bundle(written)


def test_teacher_logits_and_scores_may_be_absent(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    bare = make_dataset(teacher_logits=None, scores=np.zeros((12, 0), np.float32), score_names=())

    read = decode_bundle(encode_bundle(bare))

    assert read.teacher_logits is None
    assert read.scores.shape == (12, 0)


def test_equal_content_gives_equal_bytes(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    one = make_dataset(metadata={"a": "1", "b": "2", "c": "3"})
    other = make_dataset(metadata={"c": "3", "b": "2", "a": "1"})
    assert encode_bundle(one) == encode_bundle(other)


def test_the_bytes_do_not_depend_on_the_process(dataset: DistilledDataset) -> None:
    """Dict and set order change with the hash seed; the file must not."""
    code = (
        "import numpy as np, hashlib\n"
        "from distillery.bundle.dataset import DistilledDataset\n"
        "from distillery.bundle.write import encode_bundle\n"
        "d = DistilledDataset(images=np.zeros((2, 1, 4, 4), np.uint8), labels=np.arange(2),"
        " weights=np.ones(2, np.float32), cluster_ids=np.full(2, -1, np.int32),"
        " scores=np.zeros((2, 0), np.float32), seeds=np.arange(2), classes=('a', 'b'),"
        " images_per_class=1, metadata={k: k for k in {'x', 'y', 'z', 'w'}})\n"
        "print(hashlib.sha256(encode_bundle(d)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_the_official_library_reads_the_file(tmp_path: Path, dataset: DistilledDataset) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    write_bundle(tmp_path / "d.safetensors", dataset)

    tensors = torch_files.load_file(tmp_path / "d.safetensors")
    assert tensors["images"].shape == (12, 3, 5, 5)
    for name, array in dataset.arrays().items():
        np.testing.assert_array_equal(tensors[name].numpy(), array, err_msg=name)
    with torch_files.safe_open(tmp_path / "d.safetensors", framework="np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == list(dataset.classes)
    assert metadata["synthetic"] == "true"


@pytest.mark.parametrize(
    ("origin", "source_type"), [("refined", "/algorithmicallyEnhanced"), ("real", "unknown")]
)
def test_real_images_are_not_marked_as_synthetic(
    make_dataset: Callable[..., DistilledDataset], origin: str, source_type: str
) -> None:
    dataset = make_dataset(origin=origin, seeds=np.full(12, -1))
    metadata = bundle_metadata(dataset)
    assert metadata["synthetic"] == "false"
    assert metadata["digital_source_type"].endswith(source_type)
    again = decode_bundle(encode_bundle(dataset))
    assert again.origin == origin and set(again.seeds.tolist()) == {-1}


def test_the_content_digest_is_the_sha256_of_the_tensor_bytes(dataset: DistilledDataset) -> None:
    content = encode_bundle(dataset)
    start = 8 + int.from_bytes(content[:8], "little")
    assert dataset.content_digest == hashlib.sha256(content[start:]).hexdigest()


def test_nothing_of_time_place_or_person_is_in_the_file(dataset: DistilledDataset) -> None:
    header = encode_bundle(dataset)[:4000]
    for secret in (str(Path.cwd()), os.uname().nodename, sys.version.split()[0]):
        assert secret.encode() not in header


def test_load_takes_the_file_or_its_folder(tmp_path: Path, dataset: DistilledDataset) -> None:
    write_bundle(tmp_path / "distilled.safetensors", dataset)
    for place in (str(tmp_path), tmp_path / "distilled.safetensors"):
        assert distillery.load(place).content_digest == dataset.content_digest


def test_loading_imports_neither_torch_nor_pyarrow(
    tmp_path: Path, dataset: DistilledDataset
) -> None:
    write_bundle(tmp_path / "d.safetensors", dataset)
    code = (
        "import sys, distillery\n"
        "assert 'numpy' not in sys.modules\n"
        f"print(distillery.load({str(tmp_path / 'd.safetensors')!r}))\n"
        "heavy = {'torch', 'pyarrow', 'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == (
        "DistilledDataset(12 images of 3 x 5 x 5, 4 classes, 3 per class)"
    )


def test_torch_gives_uint8_images_with_labels(dataset: DistilledDataset) -> None:
    torch = pytest.importorskip("torch")
    image, label = dataset.torch()[4]
    assert image.dtype == torch.uint8 and image.shape == (3, 5, 5)
    assert label.dtype == torch.int64 and label == 1

    _, _, logits = dataset.torch(soft_labels=True)[4]
    assert logits.dtype == torch.float32
    np.testing.assert_array_equal(logits.numpy(), dataset.teacher_logits[4].astype(np.float32))


def test_soft_labels_that_are_not_there_are_refused(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    with pytest.raises(ValueError, match="no teacher logits"):
        make_dataset(teacher_logits=None).torch(soft_labels=True)


def test_the_recommended_normalisation_is_the_callers_or_that_of_the_images(
    make_dataset: Callable[..., DistilledDataset],
) -> None:
    images = np.zeros((4, 1, 2, 2), np.uint8)
    images[:, :, 0] = 255  # half black, half white: mean 0.5, std 0.5
    own = make_dataset(images_per_class=1, images=images)
    assert own.normalisation == ((0.5,), (0.5,))

    given = make_dataset(channels=1, metadata={"norm_mean": "[0.25]", "norm_std": "[0.125]"})
    assert given.normalisation == ((0.25,), (0.125,))

    black = make_dataset(images_per_class=1, images=np.zeros((4, 1, 2, 2), np.uint8))
    assert black.normalisation[1][0] > 0  # nothing is divided by zero
