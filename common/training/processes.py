"""One process or several: shared rows, shared decisions, and batch norm over all rows.

`accelerate launch` or `torchrun` start several processes, on one machine or many. Together they compute what one
process computes with the same global batch, apart from rounding.
"""

import atexit
import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

from common.errors import CallError, UserError

T = TypeVar("T")


class Processes:
    """The processes that train one model; a single one unless more were launched.

    Attributes: `rank` and `device` of this process, `count` of all, `first`: whether this one writes files and logs.
    """

    def __init__(self, device: str = "cpu"):
        self.rank, self.count, self.device, self._accelerator = 0, 1, device, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator  # a single process needs neither it nor its dependencies

            self._accelerator = Accelerator(cpu=device == "cpu")
            # Threads of a group that is still alive when the interpreter ends can abort the process, and prepared
            # models hold the group. atexit calls free_memory first.
            atexit.register(self._accelerator.end_training)
            atexit.register(self._accelerator.free_memory)
            self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
            self.device = str(self._accelerator.device)
        self.first = self.rank == 0

    def rows(self, batch_size: int, rank: int | None = None) -> range:
        """Return the rows of a global batch for this process, or for `rank`; CallError if it does not divide evenly."""
        if batch_size % self.count:
            raise CallError(f"expected a batch size that {self.count} processes share evenly, got {batch_size}: use a "
                            "multiple")
        n = batch_size // self.count
        rank = self.rank if rank is None else rank
        return range(rank * n, (rank + 1) * n)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model to call in training: its gradients and batch norm are those of the global batch."""
        if self.count == 1:
            return model
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _GlobalBatchNorm2d
        return self._accelerator.prepare(model)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up over all processes, element by element."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def share(self, decide: Callable[[], T]) -> T:
        """Call `decide` in the first process and return its result in all of them; a UserError ends all of them."""
        if self.count == 1:
            return decide()
        result = error = None
        if self.first:
            try:
                result = decide()
            except UserError as found:
                error = found
        box = [(result, error)]
        distributed.broadcast_object_list(box)
        result, error = box[0]
        if error is not None:
            self.stop(error)
        return result

    def stop(self, error: UserError) -> NoReturn:
        """End all processes, each of which must call this. Only the first one reports the error."""
        if self.first:
            raise error
        raise SystemExit(error.exit_code)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' rows. PyTorch's SyncBatchNorm works on GPUs only."""

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Normalise (batch, planes, bins, frames)."""
        if not self.training:
            return super().forward(planes)
        x = planes.float()
        n = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = all_reduce(x.sum((0, 2, 3))) / n
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(planes.dtype)
