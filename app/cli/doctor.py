"""`distillery doctor`: what this machine can do, and what to mend; each line with a fix."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.console import clean, out, size_text
from app.cli.display import write_event
from app.cli.local import CPU_TORCH, INSTALL, missing_packages, start_local
from app.settings import Settings, read_settings
from distillery.errors import DistilleryError
from distillery.machine import available_cores, keep_large_buffers, memory_limit_bytes

Status = Literal["ok", "warn", "fail"]
ENOUGH_MEMORY = 2e9
ENOUGH_DISK, LEAST_DISK = 2e9, 0.2e9
SLOW_FLOPS = 10e9
KEY_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's findings."""

    name: str
    status: Status
    text: str
    fix: str = ""


class Unfit(DistilleryError):
    """Something that must be mended before a job can run."""


def doctor_verb(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look at this machine: what works, and what to mend.

    Exit code 1 where a job could not run.

    Example: distillery doctor
    """
    settings = read_settings()
    checks = list(all_checks(settings))
    if as_json:
        ok = all(check.status != "fail" for check in checks)
        write_event("doctor", {"ok": ok, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks, settings)
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        raise Unfit(f"jobs cannot run here yet: mend {', '.join(failed)}")


def all_checks(settings: Settings) -> Iterator[Check]:
    """Yield every finding, in the order of the page."""
    yield _python()
    missing = missing_packages()
    if missing:
        fix = f"{INSTALL} (without a GPU, first {CPU_TORCH})"
        yield Check("packages", "fail", f"not installed: {', '.join(missing)}", fix)
    yield _machine()
    yield _memory()
    yield _disk("disk of the cache", settings.cache, "set DISTILLERY_CACHE to a folder elsewhere")
    yield _disk("disk here", Path.cwd(), "name a folder on another disk with --out")
    yield _writable(settings.cache)
    yield _hub(settings)
    if not missing:
        yield from _torch(settings)
        yield Check("packages", "ok", ", ".join(_versions()))


def _python() -> Check:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok", text)


def _machine() -> Check:
    cores = available_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    text = f"{cores} for this process, load {load:.1f}"
    if load > cores:
        return Check("cores", "warn", text, "other work slows jobs: wait for it, or stop it")
    return Check("cores", "ok", text)


def _memory() -> Check:
    total = memory_limit_bytes()
    if total < ENOUGH_MEMORY:
        return Check(
            "memory", "warn", size_text(total), "jobs need about 1 GB: close other programs"
        )
    return Check("memory", "ok", size_text(total))


def _disk(name: str, place: Path, way_out: str) -> Check:
    above = (place.absolute(), *place.absolute().parents)
    free = shutil.disk_usage(next(path for path in above if path.exists())).free
    text = f"{size_text(free)} free in {place}"
    if free >= ENOUGH_DISK:
        return Check(name, "ok", text)
    status: Status = "warn" if free >= LEAST_DISK else "fail"
    return Check(name, status, text, f"free some, or {way_out}")


def _writable(cache: Path) -> Check:
    """Say whether stages can be written; leaves no folder behind that was not there."""
    above = (cache.absolute(), *cache.absolute().parents)
    existing = next(path for path in above if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Check("cache", "ok", f"{cache} can be written")
    except OSError as error:
        fix = "set DISTILLERY_CACHE to a folder that you may write"
        return Check("cache", "fail", f"{cache} cannot be written ({error.strerror})", fix)


def _hub(settings: Settings) -> Check:
    token = "token present" if settings.has_hub_token else "no token"
    network = "offline (HF_HUB_OFFLINE)" if settings.is_offline else "asked with --download only"
    there = "" if settings.hub_cache.exists() else ", which does not exist yet"
    return Check("hub", "ok", f"{network}; {token}; cache {settings.hub_cache}{there}")


def _torch(settings: Settings) -> Iterator[Check]:
    """Yield what torch finds and how fast it multiplies."""
    start_local()
    import torch

    from generator.speeds import measure_matmul_flops

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        name = torch.cuda.get_device_name(0)
        yield Check("torch", "ok", f"{build}, {name} with {size_text(memory)}")
    elif Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        fix = "install a CUDA build of torch (see pytorch.org), or check the driver with nvidia-smi"
        yield Check("torch", "warn", f"{build} sees no GPU, but the machine has one", fix)
    else:
        yield Check("torch", "ok", f"{build} on the CPU, {torch.get_num_threads()} threads")
    rate = measure_matmul_flops("cuda" if torch.cuda.is_available() else "cpu")
    slow = rate < SLOW_FLOPS
    yield Check(
        "matmul", "warn" if slow else "ok", f"{rate / 1e9:.0f} GFLOP/s in float32",
        "jobs will take long here: close other programs, or use another machine" if slow else "",
    )  # fmt: skip
    yield _allocator(settings)


def _allocator(settings: Settings) -> Check:
    """Say whether large buffers are kept between operations."""
    given = f"; {settings.allocator}" if settings.allocator else ""
    if keep_large_buffers():
        return Check("allocator", "ok", f"glibc keeps large buffers{given}")
    text = f"this C library hands large buffers back after every operation{given}"
    return Check("allocator", "warn", text, "convolutions are up to 2.4 x faster with glibc")


def _versions() -> Iterator[str]:
    """Yield the key packages with their versions."""
    for name in KEY_PACKAGES:
        yield f"{name} {importlib.metadata.version(name)}"


def _print(checks: list[Check], settings: Settings) -> None:
    """Print the findings, fixes under them."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    grid = Table.grid(padding=(0, 2))
    for width in (4, 17):
        grid.add_column(width=width)
    grid.add_column(overflow="fold")
    for check in checks:
        grid.add_row(Text(check.status, styles[check.status]), check.name, Text(clean(check.text)))
        if check.fix:
            grid.add_row("", "", Text(f"-> {check.fix}", style=styles[check.status]))
    out(settings).print(grid)
