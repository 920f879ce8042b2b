"""One process or several: who am I, which rows are mine, and batch norm over all of them.

Several processes are begun by `accelerate launch` or `torchrun`, on one machine or many; what they compute is what one
process computes with the same global batch, but for rounding.
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
    """The group of processes that train one model; alone, if nobody launched more.

    Attributes: `rank`, `count`, `device` (of this process).
    """

    def __init__(self, device: str = "cpu"):
        self.rank, self.count, self.device, self._accelerator = 0, 1, device, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator  # one process needs neither it nor its dependencies

            self._accelerator = Accelerator(cpu=device == "cpu")
            # Threads of a group that is still alive when the interpreter ends abort the process now and then. The
            # models that were prepared hold the group too.
            atexit.register(self._accelerator.end_training)
            atexit.register(self._accelerator.free_memory)  # the last one is called first
            self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
            self.device = str(self._accelerator.device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and log lines."""
        return self.rank == 0

    def rows(self, batch_size: int, rank: int | None = None) -> range:
        """This process's rows of a global batch, or another's; raises CallError when it does not divide evenly."""
        if batch_size % self.count:
            raise CallError(f"expected a batch size that {self.count} processes share evenly, got {batch_size}: use a "
                            "multiple")
        n = batch_size // self.count
        rank = self.rank if rank is None else rank
        return range(rank * n, (rank + 1) * n)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is to be called in training: gradients, and batch norm, are those of the global batch."""
        if self.count == 1:
            return model
        return self._accelerator.prepare(global_batch_norm(model))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element by element over all processes."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def share(self, decide: Callable[[], T]) -> T:
        """What `decide` gives in the first process, in all of them; a UserError of it ends all of them."""
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
        """End all processes, each of which must call this: one sentence for all, which the first one says."""
        if self.first:
            raise error
        raise SystemExit(error.exit_code)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' rows; PyTorch's own knows no processors, only GPUs."""

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """(batch, planes, bins, frames) to the same; in training with the mean and variance of all processes' rows."""
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


def global_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch norm of the model, in place, one over all processes; names and state stay the same."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _GlobalBatchNorm2d
    return model
