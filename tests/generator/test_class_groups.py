"""More than 20 classes: an adapter for each group, one after the other, samples of every class."""

from pathlib import Path

import numpy as np
import pytest
from latent_helpers import run, write_dataset

from distillery.files import read_json
from distillery.models.base import load_base
from distillery.tensorfile import read_tensors
from finetune.difffit import ROWS
from generator.adapters import adapter_path, with_adapter
from generator.export import export_finetuned
from generator.pipeline import JobResult
from generator.sampler import sample_images
from generator.stages.finetune import CURVES
from generator.stages.generate import POOL

NAMES = [f"class {number:02d}" for number in range(23)]
REQUEST = {
    "preset": "smoke", "images_per_class": 2, "num_threads": 1, "refine": {"enabled": False},
    "label": {"enabled": False}, "proxy": {"network": "convnet-d2-w8"},
    "base": {"reference": "pixel", "pretrain": {"num_steps": 10, "warmup_steps": 2}},
    "finetune": {"num_steps": 2, "guard_interval": 0},
    "generate": {"num_steps": 2, "batch_size": 16},
    "evaluate": {"controls": False, "student": {"network": "convnet-d2-w8", "num_steps": 2}},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("groups")


@pytest.fixture(scope="module")
def result(root: Path) -> JobResult:
    dataset = write_dataset(root / "d.safetensors", NAMES, size=8, channels=1, count=16)
    return run(REQUEST | {"data": {"dataset": str(dataset)}}, root)


def folder_of(result: JobResult, stage: str) -> Path:
    return next(s.folder for s in result.stages if s.name == stage)


def test_each_group_has_an_adapter_of_its_own_rows(result: JobResult) -> None:
    folder = folder_of(result, "finetune")
    adapters = [read_tensors(adapter_path(folder, number))[0] for number in (0, 1)]
    assert not adapter_path(folder, 2).exists()
    # 12 and 11 classes, as equal as can be; row 23 is the null class
    assert [a[ROWS].tolist() for a in adapters] == [[*range(12), 23], [*range(12, 24)]]
    scales = [name for name in adapters[0] if name.endswith(".scale")]
    assert all(not np.array_equal(adapters[0][name], adapters[1][name]) for name in scales)
    assert len(read_json(folder / CURVES)) == 2


def test_every_class_has_its_samples_in_order(result: JobResult) -> None:
    pool = read_tensors(folder_of(result, "generate") / POOL)[0]
    assert pool["labels"].tolist() == [label for label in range(23) for _ in range(4)]
    assert len(set(pool["seeds"].tolist())) == len(pool["seeds"])


def test_a_class_is_sampled_from_its_own_group(result: JobResult) -> None:
    """Sampling by hand with the second group's adapter gives the pool's images of class 22."""
    pool = read_tensors(folder_of(result, "generate") / POOL)[0]
    mine = pool["labels"] == 22
    base = load_base(folder_of(result, "base") / "base")
    images = {}
    for number in (0, 1):
        adapted = with_adapter(base, folder_of(result, "finetune"), number)
        seeds, rows = pool["seeds"][mine].tolist(), np.full(4, 22)
        images[number] = sample_images(adapted, seeds, rows, num_steps=2, guidance_scale=4.0)
    difference = {
        n: np.abs(i.numpy().astype(int) - pool["images"][mine]) for n, i in images.items()
    }
    assert difference[1].max() <= 1  # another batch size: within one grey level
    assert difference[0].max() > 1


def test_export_has_a_folder_for_each_group(result: JobResult, root: Path) -> None:
    folders = export_finetuned(root / "job", root / "out", cache=root / "cache")
    assert [f.name for f in folders] == ["classes-0000-0011", "classes-0012-0022"]
    assert [load_base(f).id2label[22] for f in folders] == ["class 22", "class 22"]
