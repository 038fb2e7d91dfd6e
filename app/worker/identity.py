"""Who a worker is: its id, its device, and what it tells of its machine.

The supervisor never imports torch; what it knows of a GPU comes from the driver's own tool.
"""

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from distillery.machine import available_cores, memory_limit_bytes

QUERY = "--query-gpu=name,memory.total,memory.used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One worker process."""

    executor_id: str
    """The same at each start of this worker on this machine; no two living ones share it."""
    boot: str
    """Made anew at each start."""
    device: str
    """`cpu`, `cuda`, or `cuda:N` for one of several GPUs."""
    device_name: str
    """For people."""


def default_id(device: str) -> str:
    """Return the id of the worker of a device on this machine."""
    return f"{socket.gethostname()}-{device.replace(':', '-')}"


def find_device() -> str:
    """Return `cuda` where the driver lists a GPU, else `cpu`."""
    return "cuda" if gpu_facts(0) is not None else "cpu"


def device_name(device: str) -> str:
    """Return what a person calls a device."""
    gpu = gpu_facts(gpu_number(device))
    return f"CPU, {available_cores()} cores" if device == "cpu" or gpu is None else gpu["gpu"]


def gpu_number(device: str) -> int:
    """Return the number of the GPU of a device, 0 where it names none."""
    return int(device.partition(":")[2] or 0)


def machine_facts(device: str) -> dict[str, Any]:
    """Return cores and memory in bytes, and of a GPU its name and memory."""
    gpu = gpu_facts(gpu_number(device)) if device != "cpu" else None
    return {
        "device": device,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cores": available_cores(),
        "memory_bytes": memory_limit_bytes(),
        **(gpu or {"gpu": None, "gpu_memory_bytes": 0, "gpu_memory_used_bytes": 0}),
    }


def gpu_facts(number: int) -> dict[str, Any] | None:
    """Return name and memory of a GPU, None where there is no such GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, QUERY, "--format=csv,noheader,nounits", f"--id={number}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return None
    fields = found.stdout.strip().split(", ")
    if found.returncode != 0 or len(fields) != 3 or not (fields[1] + fields[2]).isdigit():
        return None
    total, used = (int(field) * 2**20 for field in fields[1:])
    return {"gpu": fields[0], "gpu_memory_bytes": total, "gpu_memory_used_bytes": used}
