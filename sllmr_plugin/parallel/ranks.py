"""`Ranks`: this process among those that train one model together, as torch.distributed counts them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """A process and those that train with it; alone, nothing is sent and everything is its own.

    Every method that sends has to be called by all processes, in the same order.

    Parameters
    ----------
    rank, world : int
        Number of this process, and how many there are.
    device : torch.device
        Where tensors have to be for the backend (NCCL sends those of a GPU only); the model's.

    Attributes
    ----------
    n_rows : int or None
        Rows of all processes' batches in the step at hand; None between epochs and for a process alone.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.world = world
        self.device = device if device is not None else torch.device("cpu")
        self.n_rows: int | None = None

    @classmethod
    def here(cls, device: torch.device | str) -> Ranks:
        """Return what torch.distributed says: one process alone if no group has been initialised."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), torch.device(device))

    def is_own(self, number: Tensor) -> Tensor:
        """Return which of these numbers, dealt out in turn, belong to this process; bool of the same shape."""
        return number % self.world == self.rank

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes."""
        if self.world == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def of_first(self, tensor: Tensor) -> Tensor:
        """Return what the first process has passed."""
        if self.world == 1:
            return tensor
        sent = tensor.detach().to(self.device, copy=True)
        dist.broadcast(sent, src=0)
        return sent.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return what each process has passed, (world, ...)."""
        sent = tensor.detach().to(self.device)
        received = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(received, sent)
        return torch.stack(received).to(tensor.device)
