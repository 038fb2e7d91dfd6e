"""How fast does a GPU host fine-tune and sample, beside a plain loop of the published kind?

On CUDA: DiT-XL/2 at 256 px with the autoencoder of Stable Diffusion, random weights of the
published layout. On a CPU: a small DiT and few steps, to see that everything runs. Ours and the
plain loop (`benchmarks/plain_loop.py`) run in one process, in turn, with the same allocator.

    python -m benchmarks.gpu_host [--device cpu|cuda] [--threads N] [--compile]

Floating-point operations are counted by torch for one forward pass; a DiffFit step is counted as
two (forward, and gradients of the inputs), in the plain loop with the encoding on top. Their share
is that of the device's measured rate of matrix products in the precision that the loop uses.
Writes benchmarks/results/gpu_host_DEVICE.json with hardware and versions.
"""

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.finetune_step import build_transformer, our_step
from benchmarks.jobs import save
from benchmarks.plain_loop import PlainFinetune, stock_pipeline
from distillery.machine import keep_large_buffers, use_device
from distillery.models.base import DiffusionBase
from distillery.models.codec import LatentCodec
from distillery.models.diffusion import alphas_cumprod
from distillery.models.dit import denoise
from generator.noise import initial_noise
from generator.sampler import Precision, autocast, sample_images, sample_latents

Figures = dict[str, Any]
GUIDANCE = 4.0
LATENT = {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 1000}
CASES: dict[str, Figures] = {
    "cuda": {
        "name": "DiT-XL/2, 256 px", "precision": "bf16", "image_size": 256, "matmul": 8192,
        "transformer": LATENT
        | {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28,
           "sample_size": 32},
        "vae_widths": (128, 256, 512, 512), "finetune_batches": (8, 32), "finetune_steps": 20,
        "sampling_steps": (50, 20), "sampling_batch": 32, "plain_images": 1,
    },
    "cpu": {
        "name": "small DiT, 64 px", "precision": "no", "image_size": 64, "matmul": 2048,
        "transformer": LATENT
        | {"num_attention_heads": 6, "attention_head_dim": 32, "num_layers": 4,
           "sample_size": 16},
        "vae_widths": (32, 64, 64), "finetune_batches": (8, 32), "finetune_steps": 2,
        "sampling_steps": (10, 4), "sampling_batch": 16, "plain_images": 2,
    },
}  # fmt: skip


def build_vae(case: Figures, device: torch.device) -> AutoencoderKL:
    """Return an autoencoder with random weights."""
    widths = case["vae_widths"]
    torch.manual_seed(0)
    with device:
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths), layers_per_block=2,
            up_block_types=("UpDecoderBlock2D",) * len(widths), block_out_channels=widths,
            latent_channels=4, sample_size=case["image_size"],
        )  # fmt: skip
    return vae.to(device).eval().requires_grad_(False)


def build_base(case: Figures, device: torch.device) -> DiffusionBase:
    """Return a latent base around random weights."""
    return DiffusionBase(
        kind="latent", transformer=build_transformer(case["transformer"], device).eval(),
        codec=LatentCodec(build_vae(case, device)), scheduler_config={}, channels=3,
        alphas_cumprod=alphas_cumprod("linear").to(device), image_size=case["image_size"],
        id2label={}, reference="benchmark", digest="random",
    )  # fmt: skip


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Return seconds per call: the median of three runs of `count` calls, after a warm-up."""
    call()
    times = []
    for _ in range(3):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(count):
            call()
        synchronize(device)
        times.append((time.perf_counter() - started) / count)
    return statistics.median(times)


def clear(device: torch.device) -> None:
    """Give back the memory of the variant before, and start a new peak where that can be done."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory: of the device since `clear`, on a CPU of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def flops_of(call: Callable[[], object]) -> int:
    """Return the floating-point operations of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def count_flops(case: Figures, device: torch.device) -> dict[str, int]:
    """Return operations per image of the transformer, of encoding and of decoding."""
    base = build_base(case, device)
    vae: Any = base.codec.vae  # type: ignore[attr-defined]
    latents = torch.zeros(1, *base.latent_shape, device=device)
    images = torch.zeros(1, 3, case["image_size"], case["image_size"], device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    return {
        "dit": flops_of(lambda: denoise(base.transformer, latents, zero, zero)),
        "encode": flops_of(lambda: vae.encode(images)),
        "decode": flops_of(lambda: vae.decode(latents)),
    }


def matmul_rates(size: int, device: torch.device) -> dict[str, float]:
    """Return operations a second of square matrix products, by precision (`no` is TF32 on CUDA)."""
    rates = {}
    for name, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones(size, size, device=device, dtype=dtype)
        rates[name] = 2 * size**3 / seconds_of(lambda m=matrix: torch.mm(m, m), 5, device)  # type: ignore[misc]
    return rates


def row(seconds: float, images: int, flops: float, rate: float, device: torch.device) -> Figures:
    """Return the figures of a variant that handles `images` with `flops` in `seconds`."""
    return {
        "ms": round(seconds * 1e3, 2),
        "images_per_s": round(images / seconds, 3),
        "tflop_per_s": round(flops / seconds / 1e12, 4),
        "share_of_matmul_rate": round(flops / seconds / rate, 4),
        "peak_memory_gib": round(peak_bytes(device) / 2**30, 3),
    }


def sync_free(step: Callable[[], None], device: torch.device) -> bool | None:
    """Say whether the host never waits for the device in a step; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def finetune_figures(
    case: Figures, batch_size: int, flops: dict[str, int], rates: dict[str, float],
    device: torch.device,
) -> Figures:  # fmt: skip
    """Return our step and the plain one at one batch size."""
    precision, count = case["precision"], case["finetune_steps"]
    clear(device)
    step = our_step(case | {"batch_size": batch_size}, device, precision=precision)
    work = 2 * flops["dit"] * batch_size
    seconds = seconds_of(step, count, device)
    ours = row(seconds, batch_size, work, rates[precision], device)
    ours |= {"steps_per_s": round(1 / seconds, 3), "is_sync_free": sync_free(step, device)}
    del step
    clear(device)
    plain_loop = PlainFinetune(
        build_transformer(case["transformer"], device), build_vae(case, device),
        batch_size=batch_size, image_size=case["image_size"],
    )  # fmt: skip
    plain_seconds = seconds_of(plain_loop.step, count, device)
    work += flops["encode"] * batch_size
    plain = row(plain_seconds, batch_size, work, rates["no"], device)
    encode_seconds = seconds_of(plain_loop.encode, count, device)
    plain |= {
        "steps_per_s": round(1 / plain_seconds, 3),
        "vae_share": round(encode_seconds / plain_seconds, 3),
    }
    speedup = round(plain_seconds / seconds, 2)
    return {"batch_size": batch_size, "ours": ours, "plain": plain, "speedup": speedup}


def sampling_figures(
    case: Figures, num_steps: int, flops: dict[str, int], rates: dict[str, float],
    device: torch.device, *, compiled: bool,
) -> Figures:  # fmt: skip
    """Return our sampling and the stock pipeline's, from noise to images, with guidance."""
    clear(device)
    base, precision, count = build_base(case, device), case["precision"], case["sampling_batch"]
    work = 2 * num_steps * flops["dit"] + flops["decode"]  # per image, guided
    ours = _our_sampling(base, precision, num_steps, count, work * count, rates, device)
    result: Figures = {"num_steps": num_steps, "batch_size": count, "ours": ours}
    if compiled:
        base.transformer.compile()
        result["ours_compiled"] = _our_sampling(
            base, precision, num_steps, count, work * count, rates, device
        )
    del base
    clear(device)
    transformer, vae = build_transformer(case["transformer"], device), build_vae(case, device)
    pipeline = stock_pipeline(transformer.eval(), vae)

    def one_image() -> None:
        pipeline([0], guidance_scale=GUIDANCE, num_inference_steps=num_steps, output_type="np")

    seconds = seconds_of(one_image, case["plain_images"], device)
    latent = torch.zeros(1, 4, *[case["transformer"]["sample_size"]] * 2, device=device)
    with torch.no_grad():
        decode = seconds_of(lambda: vae.decode(latent), case["plain_images"], device)
    result["plain"] = row(seconds, 1, work, rates["no"], device)
    result["plain"]["vae_share"] = round(decode / seconds, 3)
    speedup = ours["images_per_s"] / result["plain"]["images_per_s"]
    return result | {"speedup": round(speedup, 2)}


def _our_sampling(
    base: DiffusionBase, precision: Precision, num_steps: int, count: int, work: float,
    rates: dict[str, float], device: torch.device,
) -> Figures:  # fmt: skip
    """Return the figures of one batch of images, and the autoencoder's share of the time."""
    seeds, rows = list(range(count)), np.arange(count) % 10
    solver: Figures = {
        "num_steps": num_steps, "guidance_scale": GUIDANCE, "precision": precision,
    }  # fmt: skip
    seconds = seconds_of(lambda: sample_images(base, seeds, rows, **solver), 1, device)
    figures = row(seconds, count, work, rates[precision], device)
    latents = sample_latents(
        base.transformer, initial_noise(seeds, base.latent_shape), torch.from_numpy(rows),
        alphas_cumprod=base.alphas_cumprod, null_row=base.null_row, **solver,
    )  # fmt: skip

    @torch.inference_mode()
    def decode() -> None:
        with autocast(device, precision):
            base.codec.decode(latents)

    return figures | {"vae_share": round(seconds_of(decode, 1, device) / seconds, 3)}


def measure(case: Figures, device: torch.device, *, compiled: bool) -> Figures:
    """Return all figures of a case."""
    flops, rates = count_flops(case, device), matmul_rates(case["matmul"], device)
    result: Figures = {
        "model": case["name"], "precision": case["precision"], "flops_per_image": flops,
        "matmul_tflop_per_s": {name: round(rate / 1e12, 3) for name, rate in rates.items()},
        "finetune": [], "sampling": [],
    }  # fmt: skip
    for batch_size in case["finetune_batches"]:
        result["finetune"].append(finetune_figures(case, batch_size, flops, rates, device))
        print("finetune", result["finetune"][-1], flush=True)
    for num_steps in case["sampling_steps"]:
        figures = sampling_figures(case, num_steps, flops, rates, device, compiled=compiled)
        result["sampling"].append(figures)
        print("sampling", figures, flush=True)
    return result


def main() -> None:
    """Measure on the device that was asked for, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=CASES, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="also sample with torch.compile")
    options = parser.parse_args()
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_large_buffers()
    use_device(name)
    result = measure(CASES[name], torch.device(name), compiled=options.compile)
    result |= {"question": __doc__.splitlines()[0], "threads": torch.get_num_threads()}
    save(f"gpu_host_{name}.json", result)


if __name__ == "__main__":
    main()
