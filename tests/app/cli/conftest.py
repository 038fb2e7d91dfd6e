"""A bundle folder with a report as the pipeline writes it, and a command whose home is a test's."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.main import run_command
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.folder import write_bundle_folder

CLASSES = ("cat", "evil \x1b[31mname", "金魚")


def figure(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.01, "runs": [mean - 0.01, mean, mean + 0.01]}


def row(name: str, label: str, accuracy: float) -> dict[str, Any]:
    return {
        "name": name, "label": label, "is_ours": name == "ours", "accuracy": figure(accuracy),
        "cluster_min": None, "noise": figure(0.5),
    }  # fmt: skip


def report() -> dict[str, Any]:
    """Return what the command line reads of a report."""
    return {
        "title": "photos, 2 images per class",
        "protocol": {"student": "convnet", "epochs_or_steps": "30 steps", "num_seeds": 3},
        "dataset": {"images_per_split": {"test": 60}},
        "results": {
            "hard": [row("ours", "Distillery", 0.9), row("random_real", "random real", 0.8)],
            "soft": [row("ours", "Distillery", 0.7)],
        },
        "stage_effects": [
            {"stage": "refinement", "gain": 0.1, "standard_error": 0.01,
             "verdict": "+10.0 points (standard error 1.0): it helps"},
            {"stage": "soft labels", "gain": -0.2, "standard_error": 0.01,
             "verdict": "-20.0 points (standard error 1.0): it hurts"},
        ],
        "fallback": {"reason": "the samples were noise"},
        "warnings": [],
        "config": {"seed": 0},
    }  # fmt: skip


@pytest.fixture
def write_bundle() -> Callable[[Path], Path]:
    """Return a function that writes a bundle folder with report and preview."""

    def write(folder: Path) -> Path:
        rng = np.random.default_rng(0)
        num_images = 2 * len(CLASSES)
        dataset = DistilledDataset(
            images=rng.integers(0, 256, (num_images, 1, 7, 7), dtype=np.uint8),
            labels=np.repeat(np.arange(len(CLASSES)), 2),
            weights=np.ones(num_images, np.float32),
            cluster_ids=np.zeros(num_images, np.int32),
            scores=rng.random((num_images, 1), dtype=np.float32),
            seeds=np.arange(num_images),
            classes=CLASSES,
            images_per_class=2,
            score_names=("margin",),
            metadata={"source_dataset": "photos"},
        )
        files = {"preview.png": b"png", "report.html": b"<p>report</p>"}
        write_bundle_folder(folder, dataset, report=None, files=files)
        from distillery.files import write_json

        write_json(folder / "report.json", report())
        return folder

    return write


@pytest.fixture
def distillery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return the command: arguments -> (exit code, stdout, stderr), in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DISTILLERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            code = run_command([str(argument) for argument in arguments])
        finally:  # `serve` sends the logs of its process to this test's stderr
            root.handlers[:], root.level = before
        written = capsys.readouterr()
        return code, written.out, written.err

    return command
