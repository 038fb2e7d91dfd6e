"""What a worker tells of its device, and which GPU its children see."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.worker import main, perform
from app.worker.codes import DeviceLost
from app.worker.identity import device_name, find_device, gpu_id, machine_facts, one_gpu
from app.worker.tasks import StageTask
from generator.config import DistillConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
TOOL = """#!/bin/sh
case "$*" in
    *--id=0) echo "NVIDIA H200, 143771, 12" ;;
    *--id=GPU-b) echo "NVIDIA T4, 15360, 0" ;;
    *) echo "No devices were found"; exit 6 ;;
esac
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that knows two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.usefixtures("driver")
def test_a_device_is_the_gpu_that_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device() == "cuda" and device_name("cuda") == "NVIDIA H200"
    assert machine_facts("cuda:0")["gpu_memory_bytes"] == 143771 * 2**20
    monkeypatch.setenv(VISIBLE, "GPU-b, 0")
    assert device_name("cuda") == "NVIDIA T4" and device_name("cuda:1") == "NVIDIA H200"
    assert gpu_id("cuda:2") is None and machine_facts("cuda:2")["gpu"] is None
    monkeypatch.setenv(VISIBLE, "")
    assert find_device() == "cpu"


def test_children_of_a_numbered_device_see_that_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    assert one_gpu("cpu") == one_gpu("cuda") == {}
    assert one_gpu("cuda:1") == {VISIBLE: "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    monkeypatch.setenv(VISIBLE, "4,5")
    assert one_gpu("cuda:1") == {VISIBLE: "5"}
    assert one_gpu("cuda:2") == {VISIBLE: ""}  # none: the stage says that the GPU is gone

    def children(environment: dict[str, str], **_: Any) -> Any:
        seen.append(environment[VISIBLE])
        raise InterruptedError

    seen: list[str] = []
    monkeypatch.setattr(main, "Children", children)
    for device in ("cuda:1", "cuda"):
        with pytest.raises(InterruptedError):
            main.child_processes(0, device)
    assert seen == ["5", "4,5"]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu"])
def test_a_job_for_a_gpu_needs_a_worker_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    task = StageTask(
        job_id="job_1", folder=tmp_path, cache=tmp_path, stage="prepare", device=device
    )
    config = DistillConfig(device="cuda")
    perform.check_device(task, DistillConfig(device="cpu"))
    with pytest.raises(DeviceLost, match="this worker has none"):
        perform.check_device(task, config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if device == "cpu":
        with pytest.raises(DeviceLost):
            perform.check_device(task, config)
    else:
        perform.check_device(task, config)
