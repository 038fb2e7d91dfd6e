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
    return "cuda" if gpu_facts("cuda") is not None else "cpu"


def device_name(device: str) -> str:
    """Return what a person calls a device."""
    gpu = gpu_facts(device) if device != "cpu" else None
    return f"CPU, {available_cores()} cores" if gpu is None else gpu["gpu"]


def gpu_id(device: str) -> str | None:
    """Return what CUDA and the driver's tool call the GPU of a device; None: none is visible.

    The number of a device counts the GPUs that `CUDA_VISIBLE_DEVICES` lists, where it is set.
    """
    number = int(device.partition(":")[2] or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    listed = [name.strip() for name in visible.split(",") if name.strip()]
    return listed[number] if number < len(listed) else None


def one_gpu(device: str) -> dict[str, str]:
    """Return the variables that leave a process the GPU of a numbered device and no other.

    Then `cuda` is that one in every thread and library; torch's own choice is one thread's.
    """
    if not device.startswith("cuda:"):
        return {}
    # the driver's tool counts in this order, CUDA by itself the fastest first
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return order | {"CUDA_VISIBLE_DEVICES": gpu_id(device) or ""}


def machine_facts(device: str) -> dict[str, Any]:
    """Return cores and memory in bytes, and of a GPU its name and memory."""
    gpu = gpu_facts(device) if device != "cpu" else None
    return {
        "device": device,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cores": available_cores(),
        "memory_bytes": memory_limit_bytes(),
        **(gpu or {"gpu": None, "gpu_memory_bytes": 0, "gpu_memory_used_bytes": 0}),
    }


def gpu_facts(device: str) -> dict[str, Any] | None:
    """Return name and memory of the GPU of a device, None where there is no such GPU."""
    tool, name = shutil.which("nvidia-smi"), gpu_id(device)
    if tool is None or name is None:
        return None
    command = [tool, QUERY, "--format=csv,noheader,nounits", f"--id={name}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return None
    fields = found.stdout.strip().split(", ")
    if found.returncode != 0 or len(fields) != 3 or not (fields[1] + fields[2]).isdigit():
        return None
    total, used = (int(field) * 2**20 for field in fields[1:])
    return {"gpu": fields[0], "gpu_memory_bytes": total, "gpu_memory_used_bytes": used}
