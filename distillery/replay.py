"""Work of equal shape, recorded on a GPU as one CUDA graph and replayed from then on.

A step of a large network is thousands of kernels, and a host takes longer to launch them than a
fast GPU to run them; a replay launches them all at once. On a CPU the work is simply called.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[..., tuple[Tensor, ...]]
"""Tensors on the device -> tensors. It may change others in place, which keep their addresses: it
never waits for the device, and does the same operations at every call."""
WARMUP = 3
"""Calls before the recording: optimisers make their state, libraries choose their kernels."""


class Replayed:
    """A function of tensors that is recorded and replayed where that pays."""

    def __init__(
        self, work: Work, device: torch.device, *, warmup: int = WARMUP, is_on: bool = True
    ) -> None:
        """Take the work.

        Args:
            work: What is called, see `Work`.
            device: Where its tensors are; anything but a GPU means plain calls.
            warmup: Plain calls before the recording.
            is_on: Off: plain calls only.
        """
        self._work, self._warmup, self._calls = work, warmup, 0
        self._records = is_on and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the work returns for these inputs, in tensors of their own."""
        if not self._records:
            return self._work(*inputs)
        self._calls += 1
        if self._calls <= self._warmup:
            return self._aside(inputs)
        if self._graph is None:
            self._record(inputs)
        assert self._graph is not None
        if [one.shape for one in inputs] != [one.shape for one in self._inputs]:
            return self._work(*inputs)  # a last, smaller batch
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _aside(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Call the work in another queue, as torch asks for before a recording."""
        present, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(present)
        with torch.cuda.stream(aside):
            outputs = self._work(*inputs)
        present.wait_stream(aside)
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the work; recording runs nothing."""
        self._inputs = tuple(one.clone() for one in inputs)
        self._graph = torch.cuda.CUDAGraph()
        # other threads of ours may use the GPU meanwhile
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = self._work(*self._inputs)
