"""A checkpoint is the last state saved whole, however the process ended."""

import os
from pathlib import Path

import numpy as np
import pytest

from distillery.checkpoint import Checkpoint


def test_nothing_saved_is_none_and_the_last_save_wins(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    assert checkpoint.load() is None
    for step in (1, 2):
        checkpoint.save({"x": np.full(3, step)}, {"step": step, "losses": [0.1, 1 / 3]})
    loaded = Checkpoint(tmp_path / "c.safetensors").load()
    assert loaded is not None
    arrays, facts = loaded
    assert arrays["x"].tolist() == [2, 2, 2]
    assert facts == {"step": 2, "losses": [0.1, 1 / 3]}  # to the last bit


def test_a_save_that_dies_keeps_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "c.safetensors")
    checkpoint.save({"x": np.zeros(1)}, {"step": 1})

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"x": np.ones(1)}, {"step": 2})
    loaded = checkpoint.load()
    assert loaded is not None and loaded[1] == {"step": 1}


def test_due_once_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", interval_s=10)
    assert not checkpoint.is_due()
    now = 110.0
    assert checkpoint.is_due()
    checkpoint.save({}, {})
    assert not checkpoint.is_due()
    assert Checkpoint(tmp_path / "c.safetensors", interval_s=0).is_due()
