"""All that changes while fine-tuning runs, and its way into a checkpoint and back.

Weights, averages, optimiser, memories and curves: what is restored goes on to the same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillery.checkpoint import Checkpoint
from distillery.errors import JobError
from finetune.difffit import DiffFitAdapter
from finetune.memory import ClassMemories
from finetune.step import TERMS

Arrays = dict[str, np.ndarray]


class FinetuneState:
    """The resumable state of one run."""

    def __init__(
        self,
        adapter: DiffFitAdapter,
        optimizer: torch.optim.Optimizer,
        memories: ClassMemories,
        identity: str,
    ) -> None:
        """Start at step 0. `identity` tells runs apart that must not continue each other."""
        self.adapter = adapter
        self.optimizer = optimizer
        self.memories = memories
        self.average = [parameter.detach().clone() for parameter in adapter.parameters]
        self.good = adapter.state()
        """The averaged adapter of the last fidelity check that passed; at first the base."""
        self.terms: list[list[float]] = []
        """The terms of every step so far, in the order of `TERMS`."""
        self.fidelity: list[tuple[int, float]] = []
        """(step, fidelity) of every check so far; that of step 0 is the base's own."""
        self.stopped: str | None = None
        """Why the run ended early, if it did."""
        self.scaler: dict[str, float] = {}
        """State of the loss scaler, in fp16."""
        self._identity = identity

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.terms)

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by this state."""
        arrays = _prefixed("weights", self.adapter.state())
        arrays |= _prefixed("average", self.adapter.state(self.average))
        arrays |= _prefixed("good", self.good)
        for name in ("exp_avg", "exp_avg_sq"):
            arrays |= _prefixed(name, self.adapter.state(self._moments(name)))
        arrays |= _prefixed("memory", self.memories.state())
        arrays["terms"] = np.array(self.terms, np.float64).reshape(-1, len(TERMS))
        facts = {
            "identity": self._identity,
            "fidelity": self.fidelity,
            "stopped": self.stopped,
            "scaler": self.scaler,
        }
        checkpoint.save(arrays, facts)

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Continue from what `save` stored.

        Raises:
            JobError: If it is the state of another run.
        """
        if facts.get("identity") != self._identity:
            raise JobError(
                "the fine-tuning checkpoint belongs to another configuration, seed or dataset: "
                "delete it, or use another folder"
            )
        self.adapter.load(_under("weights", arrays))
        self._fill(self.average, _under("average", arrays))
        self.good = _under("good", arrays)
        self.terms = arrays["terms"].tolist()
        for parameter in self.adapter.parameters:
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step), device=parameter.device),
                "exp_avg": torch.empty_like(parameter),
                "exp_avg_sq": torch.empty_like(parameter),
            }
        for name in ("exp_avg", "exp_avg_sq"):
            self._fill(self._moments(name), _under(name, arrays))
        self.memories.load(_under("memory", arrays))
        self.fidelity = [(int(step), float(value)) for step, value in facts["fidelity"]]
        self.stopped = facts["stopped"]
        self.scaler = facts["scaler"]

    def curves(self) -> dict[str, list[float]]:
        """Return the terms of every step, and step and fidelity of every check."""
        columns = zip(*self.terms, strict=True) if self.terms else [()] * len(TERMS)
        curves = {name: list(column) for name, column in zip(TERMS, columns, strict=True)}
        curves["fidelity_step"] = [float(step) for step, _ in self.fidelity]
        curves["fidelity"] = [value for _, value in self.fidelity]
        return curves

    def _moments(self, name: str) -> list[Tensor]:
        state = self.optimizer.state
        return [
            state[parameter][name] if parameter in state else torch.zeros_like(parameter)
            for parameter in self.adapter.parameters
        ]

    @torch.no_grad()
    def _fill(self, tensors: Sequence[Tensor], arrays: Mapping[str, np.ndarray]) -> None:
        for name, tensor in zip(self.adapter.names, tensors, strict=True):
            tensor.copy_(torch.from_numpy(arrays[name]))


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    start = f"{prefix}/"
    return {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
