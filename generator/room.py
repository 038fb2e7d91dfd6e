"""Whether a machine has memory and time for a pretrained base that nobody asked for by name.

At nominal prices, so that the same request gives the same job whatever else the machine does.
"""

from dataclasses import dataclass

from distillery.machine import Machine
from distillery.models.config import PUBLISHED_BASES
from generator.config import DistillConfig
from generator.estimate import memory_of, network_bytes
from generator.planned import Look
from generator.work import BaseDescription, nominal_prices, work_of

LATENT_GPU_BYTES = 12 * 2**30
"""What fine-tuning DiT-XL/2 with DiffFit at batch 8 needs on a GPU, with some room."""
MEMORY_SHARE = 0.9
"""Of a machine's memory, what a job may take."""
GPU_FACTOR = 200
"""How many nominal CPUs a GPU with room for such a base is worth, at least."""
LONGEST_GPU_S = 7 * 24 * 3600.0
LONGEST_CPU_S = 2 * 3600.0
"""A small pixel DiT is done in less, so more would surprise."""
LONGEST_SMOKE_S = 15.0
"""On a CPU; `smoke` is a look at every stage."""
SIZES = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@dataclass(frozen=True, slots=True)
class _Need:
    """What is needed of one thing, and what there is."""

    needed: float
    available: float
    what: str


def why_no_room(
    config: DistillConfig, look: Look, base: BaseDescription, machine: Machine
) -> str | None:
    """Return what a machine lacks for a job, as the rest of a sentence; None: it fits.

    Args:
        config: The complete configuration of the job with this base.
        look: First look at the images.
        base: The networks of the base.
        machine: Where the job will run.
    """
    for need in _memory_needs(config, look, base, machine):
        if need.needed > need.available:
            return (
                f"needs about {need.needed / 1e9:.1f} GB of {need.what}, "
                f"{need.available / 1e9:.1f} GB are for it"
            )
    seconds, longest = _seconds(config, look, base), _longest_s(config)
    if seconds > longest:
        return f"would take about {_time(seconds)}, at most {_time(longest)} are for it"
    return None


def _memory_needs(
    config: DistillConfig, look: Look, base: BaseDescription, machine: Machine
) -> list[_Need]:
    """Return what is needed of the machine's memory, and of its GPU's where that computes."""
    memory, networks = memory_of(config, look, base)[0], network_bytes(config, base)
    if config.device != "cuda":
        return [_Need(memory, MEMORY_SHARE * machine.memory_bytes, "memory")]
    published = BaseDescription(
        kind="latent", transformer=next(iter(PUBLISHED_BASES.values())).transformer, vae=None,
        is_here=False,
    )  # fmt: skip
    on_gpu = LATENT_GPU_BYTES * networks / network_bytes(config, published, batch_size=8)
    return [
        _Need(on_gpu, machine.gpu_memory_bytes, "GPU memory"),
        _Need(memory - networks, MEMORY_SHARE * machine.memory_bytes, "memory"),
    ]


def _seconds(config: DistillConfig, look: Look, base: BaseDescription) -> float:
    """Return the time of the whole job on a nominal machine."""
    seconds = sum(work_of(config, look, base, nominal_prices(config, base)).values())
    return seconds / GPU_FACTOR if config.device == "cuda" else seconds


def _longest_s(config: DistillConfig) -> float:
    """Return the time that a job may take with a base that nobody asked for."""
    if config.device == "cuda":
        return LONGEST_GPU_S
    return LONGEST_SMOKE_S if config.preset == "smoke" else LONGEST_CPU_S


def _time(seconds: float) -> str:
    """Return a time in words."""
    size, name = next((each for each in SIZES if seconds >= 2 * each[0]), SIZES[-1])
    return f"{seconds / size:.0f} {name}"
