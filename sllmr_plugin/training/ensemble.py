"""Checkpoints of a model whose disagreement measures its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..errors import SLLMRError

Checkpoint = Mapping[str, Tensor] | str | Path


def read_checkpoints(checkpoints: Sequence[Checkpoint], shapes: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """Read checkpoints of one model.

    Parameters
    ----------
    checkpoints : sequence of mapping or path
        ``state_dict`` objects, or files of them: ``.safetensors``, or what ``torch.save(model.state_dict(), path)``
        wrote (read with ``weights_only=True``, so no code in the file is run).
    shapes : mapping of str to shape
        Names and shapes of the model's own ``state_dict``.

    Returns
    -------
    list of dict of str to Tensor
        Detached copies.

    Raises
    ------
    SLLMRError
        If there are fewer than two, a file cannot be read, or one belongs to another model.
    """
    if isinstance(checkpoints, (str, Path, Mapping)) or len(checkpoints) < 2:
        raise SLLMRError(
            "an ensemble needs a list of at least two checkpoints. Pass the state_dict of several epochs or seeds."
        )
    states = []
    for number, checkpoint in enumerate(checkpoints):
        name = f"checkpoint {number} ({checkpoint})" if isinstance(checkpoint, (str, Path)) else f"checkpoint {number}"
        if isinstance(checkpoint, (str, Path)):
            state = _read(Path(checkpoint), name)
        elif isinstance(checkpoint, Mapping):
            state = checkpoint
        else:
            raise SLLMRError(f"{name} is a {type(checkpoint).__name__}. Pass its state_dict(), or the path of a file.")
        different = [key for key in {**shapes, **state} if not _fits(state.get(key), shapes.get(key))]
        if different:
            raise SLLMRError(
                f"{name} is of another model: {different[0]} and {len(different) - 1} other tensors differ in name or "
                "shape. Pass checkpoints of a model with the same feature columns and sizes."
            )
        states.append({key: tensor.detach().clone() for key, tensor in state.items()})
    return states


def _fits(value: Any, shape: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _read(path: Path, name: str) -> Mapping[str, Tensor]:
    if not path.exists():
        raise SLLMRError(f"{name}: no such file. Give a .safetensors file or one that torch.save(state_dict) wrote.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise errors of many kinds, some of their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SLLMRError(f"{name} cannot be read ({reason}). Save model.state_dict(), not the whole model.") from None
    if not isinstance(state, Mapping):
        raise SLLMRError(f"{name} holds a {type(state).__name__}. Save model.state_dict(), not the whole model.")
    return state
