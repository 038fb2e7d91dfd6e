"""What the machine offers: figures that plans rest on."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillery import machine
from distillery.errors import Cancelled, DistilleryError
from distillery.progress import Progress, ignore_progress


def test_figures_are_of_this_machine() -> None:
    found = machine.probe()
    assert 1 <= found.num_cores <= len(os.sched_getaffinity(0))  # fewer where a group limits them
    assert 2**28 < found.memory_bytes < 2**50
    assert (found.gpu is None) == (found.gpu_memory_bytes == 0)


@pytest.fixture
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    return tmp_path


def test_a_container_limits_memory_below_the_machines(control_group: Path) -> None:
    without = machine.memory_limit_bytes()
    (control_group / "memory.max").write_text("268435456\n")
    assert machine.memory_limit_bytes() == 2**28
    (control_group / "memory.max").write_text(f"{2**62}\n")
    assert machine.memory_limit_bytes() == without
    (control_group / "memory.max").write_text("max\n")
    assert machine.memory_limit_bytes() == without


def test_an_intel_cpu_is_told_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPU_FACTS", facts)
    facts.write_text("vendor_id\t: GenuineIntel\n")
    assert machine.is_intel_cpu()
    facts.write_text("vendor_id\t: AuthenticAMD\n")
    assert not machine.is_intel_cpu()
    facts.unlink()  # Windows has no such file
    monkeypatch.setattr(machine.platform, "processor", lambda: "Intel64 Family 6, GenuineIntel")
    assert machine.is_intel_cpu()


def test_a_container_limits_cores_by_its_quota(
    control_group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert machine.available_cores() == 64
    (control_group / "cpu.max").write_text("150000 100000\n")  # docker run --cpus 1.5
    assert machine.available_cores() == 2
    (control_group / "cpu.max").write_text("max 100000\n")
    assert machine.available_cores() == 64


def test_threads_are_set_for_torch() -> None:
    before = torch.get_num_threads()
    machine.use_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    machine.use_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of Linux")
def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    assert machine.keep_large_buffers() is False


def test_a_wish_to_stop_is_not_an_error_that_handlers_of_errors_catch() -> None:
    assert not issubclass(Cancelled, DistilleryError)
    ignore_progress(Progress("refine", 1, 2))


IMPORTS = """
import gc, sys
from distillery.machine import quick_imports
try:
    with quick_imports():
        assert not gc.isenabled()
        import torch
        {then}
except ImportError:
    print("said", end=" ")
print(gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


@pytest.mark.parametrize(
    ("then", "told"), [("pass", "True True"), ("import no_such_module", "said True False")]
)
def test_imports_are_left_to_the_collector_only_where_one_failed(then: str, told: str) -> None:
    """In a process of its own: this one has imported torch already."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(then=then)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told


def test_the_collector_goes_on_where_torch_is_there_already() -> None:
    before = gc.get_freeze_count()
    with machine.quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
