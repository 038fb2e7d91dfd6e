"""What a verb that computes does first: ask for the torch stack, and make the process fast.

The base install reads bundles with numpy alone; everything else needs the extra `local`.
"""

import importlib.util
import os

from distillery.errors import ConfigError
from distillery.machine import keep_large_buffers

STACK = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "sklearn", "filelock",
    "huggingface_hub", "pyarrow", "jinja2", "matplotlib", "psutil",
)  # fmt: skip
INSTALL = "pip install 'distillery[local]'"
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


def start_local() -> None:
    """Prepare this process for torch; must run before anything imports it.

    Threads that wait for work sleep instead of spinning: on a machine that does anything else,
    spinning threads take the cores from each other (measured on two cores: a training step of 134
    ms became 46 ms). And glibc keeps large buffers, see `keep_large_buffers`.

    Raises:
        ConfigError: If the torch stack is not installed.
    """
    missing = missing_packages()
    if missing:
        raise ConfigError(
            f"this needs packages that are not installed ({', '.join(missing)}): run "
            f"{INSTALL} (without a GPU, first {CPU_TORCH})"
        )
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # OpenMP reads it once, at its start
    keep_large_buffers()


def missing_packages() -> list[str]:
    """Return the packages of the torch stack that are not installed."""
    return [name for name in STACK if importlib.util.find_spec(name) is None]
