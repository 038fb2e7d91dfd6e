"""Two processes fine-tune as one: they share their memories and average their gradients."""

import os
import socket
from pathlib import Path

import numpy as np
import torch
from finetune_helpers import NUM_CLASSES, build_tiny_dit
from torch import multiprocessing

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled
from distillery.models.diffusion import alphas_cumprod
from distillery.tensorfile import read_tensors, write_tensors
from finetune.config import FinetuneConfig
from finetune.latents import PixelLatents
from finetune.trainer import finetune

NUM_PROCESSES = 2


def striped() -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(24, dtype=np.int64) % NUM_CLASSES
    return np.random.default_rng(0).integers(0, 256, (24, 1, 4, 4), dtype=np.uint8), labels


def train(folder: Path, reduction: str, on_progress=lambda _: None):
    images, labels = striped()
    config = FinetuneConfig(
        num_steps=12, batch_size=8, memory_size=4, reduction=reduction, diversity_weight=0.5,
        representativeness_weight=0.5, guard_interval=5,
    )  # fmt: skip
    return finetune(
        build_tiny_dit(), alphas_cumprod=alphas_cumprod("squaredcos_cap_v2"), null_row=NUM_CLASSES,
        latents=PixelLatents(images), labels=labels, class_rows=range(NUM_CLASSES), config=config,
        seed=0, checkpoint=Checkpoint(folder / f"{reduction}.safetensors", interval_s=0.0),
        check=lambda model: 1.0 + model.proj_out_2.bias.abs().sum().item(), on_progress=on_progress,
    )  # fmt: skip


def stop(_) -> None:
    raise Cancelled


def worker(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(NUM_PROCESSES),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    for reduction in ("per_sample", "scalar"):
        try:  # both processes stop at the first report, though only one of them is asked
            train(folder, reduction, on_progress=stop if rank == 0 else lambda _: None)
        except Cancelled:
            result = train(folder, reduction)
            curves = {f"curve {name}": np.array(values) for name, values in result.curves.items()}
            write_tensors(folder / f"{reduction}-{rank}", result.adapter | curves)
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # one server imports everything once, and both processes are forked from it
    multiprocessing.get_context("forkserver").set_forkserver_preload(["finetune_helpers", __name__])
    multiprocessing.start_processes(
        worker, (tmp_path, port), nprocs=NUM_PROCESSES, start_method="forkserver"
    )
    for reduction in ("per_sample", "scalar"):
        (one, _), (other, _) = (
            read_tensors(tmp_path / f"{reduction}-{rank}") for rank in range(NUM_PROCESSES)
        )
        assert all(np.array_equal(one[name], other[name]) for name in one)
        together, _ = read_tensors(tmp_path / f"{reduction}.safetensors")
        (tmp_path / "alone").mkdir(exist_ok=True)
        result = train(tmp_path / "alone", reduction)
        alone, _ = read_tensors(tmp_path / "alone" / f"{reduction}.safetensors")
        # sums over the batch are taken in another order, so the last bits differ
        for name in ("memory/real.entries", "memory/predicted.entries", "terms"):
            np.testing.assert_allclose(together[name], alone[name], atol=2e-3, err_msg=name)
        for name, array in result.adapter.items():
            np.testing.assert_allclose(one[name], array, atol=2e-3, err_msg=name)
