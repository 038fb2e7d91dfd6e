"""What a run makes that is as large as the whole set."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class WholeSets(TorchDispatchMode):
    """Counts the new tensors that are as large as a whole set; views and work in place are none."""

    def __init__(self, whole: Tensor) -> None:
        super().__init__()
        self.numel, self.count = whole.numel(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        if isinstance(result, Tensor) and result.numel() >= self.numel:
            self.count += result.untyped_storage().data_ptr() not in known
        return result
