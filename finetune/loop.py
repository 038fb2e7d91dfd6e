"""The steps of a fine-tuning run in their order: train, read losses, check fidelity, save, report.

Between two reports the host only queues work for the device; what it must wait for happens there.
"""

import math
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from distillery.checkpoint import Checkpoint
from distillery.errors import Cancelled, TrainingError
from distillery.progress import OnProgress, Progress
from distillery.replay import Replayed
from finetune.config import FinetuneConfig
from finetune.difffit import DiffFitAdapter
from finetune.ema import fitted_decay, update_average
from finetune.memory import ClassMemories
from finetune.processes import Processes
from finetune.state import FinetuneState
from finetune.step import TERMS, Batch, Batches, MinimaxLoss

REPORT_INTERVAL = 10
"""Steps between two reports; losses are read from the device then only."""

Check = Callable[[nn.Module], float]
"""Fidelity of a model, larger is better: how often a classifier agrees with the asked class."""


class FinetuneLoop:
    """One run over one adapter."""

    def __init__(
        self,
        adapter: DiffFitAdapter,
        alphas_cumprod: Tensor,
        batches: Batches,
        memories: ClassMemories,
        config: FinetuneConfig,
        processes: Processes,
        identity: str,
    ) -> None:
        """Make everything ready for step 0. `identity` tells runs apart, see `FinetuneState`."""
        optimizer = torch.optim.AdamW(
            adapter.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True,
            capturable=processes.device.type == "cuda",
        )  # fmt: skip
        self.state = FinetuneState(adapter, optimizer, memories, identity)
        self._accelerator = processes.accelerator
        model, self._optimizer = self._accelerator.prepare(adapter.transformer, optimizer)
        self._loss = MinimaxLoss(model, alphas_cumprod, memories, config, processes)
        self._batches = batches
        self._config = config
        self._processes = processes
        self._decay = (
            fitted_decay(config.num_steps) if config.ema_decay is None else config.ema_decay
        )
        self._pending: list[Tensor] = []
        # the scaler of fp16 looks at values, and processes wait for each other
        alone = processes.num == 1 and self._accelerator.scaler is None
        self._step = Replayed(self._train_on, processes.device, is_on=alone)

    def release(self) -> None:
        """Take away what `accelerate` put around the network's forward pass."""
        self._accelerator.unwrap_model(self.state.adapter.transformer, keep_fp32_wrapper=False)

    def run(self, checkpoint: Checkpoint, check: Check | None, on_progress: OnProgress) -> None:
        """Take the steps that are left, or fewer if the fidelity check stops the run."""
        state, config = self.state, self._config
        if check is not None and not state.fidelity:
            self._check_fidelity(check)
        while state.step < config.num_steps and state.stopped is None:
            self.take_step()
            done = state.step + len(self._pending)
            is_last = done == config.num_steps
            is_check = check is not None and (
                is_last or (config.guard_interval > 0 and done % config.guard_interval == 0)
            )
            if not (is_last or is_check or done % REPORT_INTERVAL == 0):
                continue
            self._read_losses()
            if check is not None and is_check:
                self._check_fidelity(check)
            if is_last or state.stopped is not None or checkpoint.is_due():
                self._save(checkpoint)
            self._report(checkpoint, on_progress)

    def take_step(self) -> None:
        """Train on the next batch; nothing in here waits for the device."""
        batch = self._batches.draw(self.state.step + len(self._pending), self._processes)
        (terms,) = self._step(*(getattr(batch, one.name) for one in fields(batch)))
        self._pending.append(terms)

    def _train_on(self, *batch: Tensor) -> tuple[Tensor]:
        """Train on the tensors of a `Batch`, and return the terms of its loss."""
        total, terms = self._loss(Batch(*batch))
        self._accelerator.backward(total)
        self._optimizer.step()
        self._optimizer.zero_grad()
        update_average(self.state.average, self.state.adapter.parameters, self._decay)
        return (terms,)

    def _read_losses(self) -> None:
        """Move the terms of the last steps to the host; stop at the first that is not finite."""
        for terms in self._processes.mean(torch.stack(self._pending)).tolist():
            for name, value in zip(TERMS, terms, strict=True):
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the {name} loss became {value} at step {self.state.step}: "
                        "lower learning_rate or the weights of the criteria; "
                        "the last good state is kept"
                    )
            self.state.terms.append(terms)
        self._pending.clear()
        # a gradient can overflow while its loss is finite; such weights must not be saved
        norms = torch.stack(torch._foreach_norm(self.state.adapter.parameters))
        if not math.isfinite(norms.sum().item()):
            raise TrainingError(
                f"the adapter's weights are no longer finite after step {self.state.step - 1}: "
                "lower learning_rate; the last good state is kept"
            )

    def _check_fidelity(self, check: Check) -> None:
        """Measure the averaged adapter; stop the run if it is much worse than the base."""
        state = self.state
        value = self._measure(check) if self._processes.is_main else 0.0
        value = self._processes.from_main(value)
        state.fidelity.append((state.step, value))
        base = state.fidelity[0][1]
        if value < self._config.guard_floor * base:
            state.stopped = (
                f"fidelity fell from {base:.3f} to {value:.3f} by step {state.step}, below "
                f"{self._config.guard_floor:.0%} of the base's own: the last good adapter is kept"
            )
        else:
            state.good = state.adapter.state(state.average)

    @torch.no_grad()
    def _measure(self, check: Check) -> float:
        """Return the fidelity with the averages in place of the weights, which come back."""
        adapter = self.state.adapter
        weights = [parameter.detach().clone() for parameter in adapter.parameters]
        try:
            torch._foreach_copy_(adapter.parameters, self.state.average)
            return float(check(adapter.transformer))
        finally:
            torch._foreach_copy_(adapter.parameters, weights)

    def _save(self, checkpoint: Checkpoint) -> None:
        if self._accelerator.scaler is not None:
            self.state.scaler = self._accelerator.scaler.state_dict()
        if self._processes.is_main:
            self.state.save(checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint, if there is one."""
        saved = checkpoint.load()
        if saved is None:
            return
        self.state.restore(*saved)
        if self._accelerator.scaler is not None and self.state.scaler:
            self._accelerator.scaler.load_state_dict(self.state.scaler)

    def _report(self, checkpoint: Checkpoint, on_progress: OnProgress) -> None:
        """Tell where the run stands; if the answer is to stop, save and stop on every process."""
        state, config = self.state, self._config
        recent = state.terms[-REPORT_INTERVAL:]
        metrics = {
            name: sum(column) / len(recent)
            for name, column in zip(TERMS, zip(*recent, strict=True), strict=True)
        }
        if state.fidelity:
            metrics["fidelity"] = state.fidelity[-1][1]
        message = state.stopped or "learning to be representative and diverse"
        cancelled: Cancelled | None = None
        if self._processes.is_main:
            try:
                on_progress(Progress("finetune", state.step, config.num_steps, message, metrics))
            except Cancelled as error:
                cancelled = error
        if self._processes.from_main(float(cancelled is not None)):
            self._save(checkpoint)
            raise cancelled or Cancelled
