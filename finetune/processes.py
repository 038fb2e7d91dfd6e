"""The processes of one fine-tuning run, one a device, and the few things they tell each other.

Thin over `accelerate`, which starts them and averages their gradients. With one process every call
returns what it was given.
"""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor

from distillery.errors import ConfigError
from finetune.config import check_precision
from finetune.losses import Peers


class Processes:
    """What this process needs to know of the others."""

    def __init__(self, precision: str, device: torch.device, batch_size: int) -> None:
        """Join the processes that were launched, if any.

        Raises:
            ConfigError: If the batch cannot be cut into equal parts, or the device lacks fp16.
        """
        check_precision(precision, device.type)
        if AcceleratorState._shared_state:
            # accelerate keeps device and precision of the first run of an interpreter for all later
            first = AcceleratorState()
            if first.device.type != device.type:
                AcceleratorState._reset_state(reset_partial_state=True)
            elif first.mixed_precision != precision:
                AcceleratorState._reset_state()
        # the only buffers are constant tables, equal on all devices
        kwargs = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=[kwargs]
        )
        self.device = self.accelerator.device
        self.num = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        if batch_size % self.num:
            raise ConfigError(
                f"batch_size must be a multiple of the {self.num} processes, got {batch_size}"
            )
        self.peers = Peers(
            gather=self.gather, num_processes=self.num, rank=self.accelerator.process_index
        )

    def gather(self, tensor: Tensor) -> Tensor:
        """Join a tensor (B, ...) of every process along its first dimension, in order of rank."""
        return tensor if self.num == 1 else self.accelerator.gather(tensor)

    def mine(self, tensor: Tensor) -> Tensor:
        """Return this process's part of a tensor (B, ...) that all hold, on its device."""
        part = tensor.chunk(self.num)[self.accelerator.process_index]
        return part.to(self.device, non_blocking=True)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes of a tensor that each of them holds."""
        return tensor if self.num == 1 else self.accelerator.reduce(tensor, "mean")

    def from_main(self, value: float) -> float:
        """Return the main process's value on every process."""
        if self.num == 1:
            return value
        tensor = torch.tensor([value if self.is_main else 0.0], device=self.device).double()
        return float(self.accelerator.reduce(tensor, "sum").item())
