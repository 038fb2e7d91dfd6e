"""What this machine offers, and the process-wide settings that make it fast.

Called once, at the top (a command or a worker), never by a library function.
"""

import ctypes
import gc
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits (control groups, version 2)."""
CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, memory and accelerator."""

    num_cores: int
    """Cores this process may use."""
    memory_bytes: int
    """Memory of the machine, or of its container where that is less."""
    gpu: str | None
    """Name of the first CUDA device."""
    gpu_memory_bytes: int
    """Memory of that device, 0 without one."""


def keep_large_buffers() -> bool:
    """Tell glibc to reuse large buffers instead of handing them back after every operation.

    Convolutions run 1.3 to 2.4 times as fast, at the cost of some memory (docs/method.md). Returns
    whether the C library took it; other libraries are left alone.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import torch and its like within, without a look for garbage among what they leave.

    Python's collector goes through all objects again and again as they come, a million here, and
    once more at the end of the process: a verb that computes took 4.9 s to start and end, and takes
    3.2 s without. What was imported is never looked at from then on, all else is as ever.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def available_cores() -> int:
    """Return the number of cores that this process may use, by affinity and by quota."""
    affine = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    quota, _, period = _group_limit("cpu.max").partition(" ")
    return min(cores, math.ceil(int(quota) / int(period))) if quota.isdigit() else cores


def is_intel_cpu() -> bool:
    """Say whether the processor calls itself Intel's, where the system tells."""
    try:
        told = CPU_FACTS.read_text()
    except OSError:  # not Linux: Windows tells the maker in the name
        told = platform.processor()
    return "GenuineIntel" in told


def memory_limit_bytes() -> int:
    """Return the machine's memory, or its control group's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _group_limit("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _group_limit(name: str) -> str:
    """Return the text of a limit of our control group, empty where there is none."""
    try:
        return (CONTROL_GROUP / name).read_text().strip()
    except OSError:  # not in a control group of version 2
        return ""


def probe() -> Machine:
    """Return what this machine offers; imports torch to ask for a GPU."""
    import torch  # here, so that the API process can import this module

    gpu, gpu_memory = None, 0
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, gpu_memory = properties.name, properties.total_memory
    return Machine(available_cores(), memory_limit_bytes(), gpu, gpu_memory)


def use_threads(num_threads: int) -> None:
    """Set how many threads one torch operation uses; part of a job's resolved config."""
    import torch

    torch.set_num_threads(num_threads)


def use_device(device: str) -> None:
    """Let float32 products on a GPU use its tensor cores (TF32), and give equal bits in every run.

    A CPU is left alone: its operations give equal bits as they are. On a GPU some add up in the
    order in which threads happen to come; torch has ordered forms of those that we use, and raises
    RuntimeError for one that has none.
    """
    import torch

    if device == "cpu":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)  # with `warn_only`, attention would stay unordered
