"""The fine-tuning loop: DiffFit with minimax memories, resumable, on one device or several.

Source: Gu et al. (2024), "Efficient dataset distillation via minimax diffusion", Algorithm 1.
Shapes: N images, K classes, T timesteps, R label rows without the null row.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distillery.checkpoint import Checkpoint
from distillery.files import digest_json
from distillery.models.dit import disable_label_dropout
from distillery.progress import OnProgress, ignore_progress
from finetune.config import FinetuneConfig
from finetune.difffit import apply_difffit
from finetune.latents import LatentSource
from finetune.linear import fast_linears
from finetune.loop import Check, FinetuneLoop
from finetune.memory import ClassMemories
from finetune.processes import Processes
from finetune.state import FinetuneState
from finetune.step import Batches


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """What a run leaves behind."""

    adapter: dict[str, np.ndarray]
    """The averaged adapter, for `difffit.merge_adapter`."""
    curves: dict[str, list[float]]
    """Terms of the loss by name, one value a step, and `fidelity` at each `fidelity_step`."""
    num_steps_done: int
    """Steps taken."""
    stopped: str | None
    """Why the run ended early; the adapter is then the last one that passed the check."""


def finetune(
    transformer: nn.Module,
    *,
    alphas_cumprod: Tensor,
    null_row: int,
    latents: LatentSource,
    labels: np.ndarray,
    class_rows: Sequence[int] | np.ndarray,
    config: FinetuneConfig,
    seed: int,
    checkpoint: Checkpoint,
    check: Check | None = None,
    on_progress: OnProgress = ignore_progress,
) -> FinetuneResult:
    """Adapt a DiT to a group of classes and return the averaged adapter.

    The transformer is left as it came. The run may be interrupted at any moment: started again
    with the same checkpoint, it ends with the same bytes.

    Args:
        transformer: A diffusers DiT on the device to use.
        alphas_cumprod: Float64 (T,), its noise schedule.
        null_row: Row of its label tables that stands for no label.
        latents: The N training latents.
        labels: Int64 (N,) in 0..K-1.
        class_rows: Row of the label tables for each class, (K,).
        config: Settings of the run; `classes_per_group` is the caller's affair.
        seed: Root of every draw.
        checkpoint: Where the state is kept; an existing one is continued.
        check: Fidelity of the network with the averaged adapter in it; None: unguarded.
        on_progress: Told the terms of the loss every few steps; may raise `Cancelled`.

    Raises:
        Cancelled: If `on_progress` asked to stop; the state is saved first.
        ConfigError: If the batch cannot be shared out to the processes.
        JobError: If `checkpoint` holds the state of another run.
        TrainingError: If a term is no longer finite; the last good state is kept.
        ValueError: If the arguments do not fit each other.
    """
    rows = _checked_rows(latents, labels, class_rows, null_row)
    device = next(transformer.parameters()).device
    processes = Processes(config.precision, device, config.batch_size)
    transformer.to(processes.device)
    disable_label_dropout(transformer)
    batches = Batches(
        latents, torch.from_numpy(labels), rows, null_row, len(alphas_cumprod), config, seed
    )
    dim = batches.draw(0, processes).x0[0].numel()
    memories = ClassMemories(len(rows), config.memory_size, dim, processes.device)
    identity = digest_json([asdict(config), seed, len(labels), rows.tolist(), null_row, dim])
    adapter = apply_difffit(transformer, rows.tolist())
    with ExitStack() as undo:
        undo.callback(adapter.remove)
        loop = FinetuneLoop(adapter, alphas_cumprod, batches, memories, config, processes, identity)
        undo.callback(loop.release)
        loop.restore(checkpoint)
        with fast_linears(transformer):
            loop.run(checkpoint, check, on_progress)
        return _result(loop.state)


def _result(state: FinetuneState) -> FinetuneResult:
    return FinetuneResult(
        adapter=state.good if state.stopped else state.adapter.state(state.average),
        curves=state.curves(),
        num_steps_done=state.step,
        stopped=state.stopped,
    )


def _checked_rows(
    latents: LatentSource,
    labels: np.ndarray,
    class_rows: Sequence[int] | np.ndarray,
    null_row: int,
) -> Tensor:
    """Return the class rows as int64 (K,), or say what does not fit."""
    rows = torch.as_tensor(np.asarray(class_rows, np.int64))
    if len(latents) != len(labels):
        raise ValueError(f"latents and labels must pair up, got {len(latents)} and {len(labels)}")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(rows):
        raise ValueError(f"labels must be in 0..{len(rows) - 1}, one for each latent")
    if len(rows.unique()) != len(rows) or null_row in rows:
        raise ValueError(f"class_rows must differ from each other and from {null_row}, got {rows}")
    return rows
