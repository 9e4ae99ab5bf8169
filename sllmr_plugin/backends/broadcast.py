"""`broadcast`: a model as it is needed for predictions, in a form that other processes can share without copies."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import EngineError
from .deepctr import ImportFirst
from .step_losses import FIT_ONLY, LOSSES, plain_class

# Attributes that only training needs. An optimizer is twice the model's size, a history holds the callbacks' objects.
_TRAINING_ONLY = ("sllmr", LOSSES, "optim", "loss_func", "metrics", "history", *FIT_ONLY)


@dataclass(frozen=True, eq=False)
class Broadcast:
    """A model taken apart: what `broadcast` returns.

    Attributes
    ----------
    skeleton : Module
        The plain model with empty parameters and buffers.
    arrays : list of ndarray
        Their values, in the order of ``parameters()`` and then ``buffers()``.
    """

    skeleton: nn.Module
    arrays: list[np.ndarray]

    def model(self) -> nn.Module:
        """Return the model on the memory of the arrays; for predictions only, since that may be read-only."""
        tensors = _tensors(self.skeleton)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for tensor, array in zip(tensors, self.arrays, strict=True):
                tensor.data = torch.from_numpy(array)
        return self.skeleton

    def __reduce__(self) -> tuple:
        return _rebuild, (ImportFirst(), self.skeleton, self.arrays)


def broadcast(model: nn.Module) -> Broadcast:
    """Take a model apart for other processes; the model itself stays as it is.

    Parameters
    ----------
    model : Module
        Plain or wrapped, on the CPU. What trains it (optimizer, history, score table) is left behind.

    Raises
    ------
    EngineError
        If it is on another device.
    """
    tensors = _tensors(model)
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere is not None:
        raise EngineError(
            f"the model is on {elsewhere}, and an engine's workers rank on CPUs. Move it with model.to('cpu'), or "
            "rank in this process (--engine local)."
        )
    lean: nn.Module = object.__new__(plain_class(model))
    lean.__dict__.update({name: value for name, value in model.__dict__.items() if name not in _TRAINING_ONLY})
    # With this memo, deepcopy takes an empty stand-in in place of each parameter and buffer.
    memo: dict[int, Any] = {id(tensor): _empty(tensor) for tensor in tensors}
    return Broadcast(copy.deepcopy(lean, memo), [tensor.detach().numpy() for tensor in tensors])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty(0, dtype=tensor.dtype)
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _rebuild(_: object, skeleton: nn.Module, arrays: list[np.ndarray]) -> Broadcast:
    return Broadcast(skeleton, arrays)
