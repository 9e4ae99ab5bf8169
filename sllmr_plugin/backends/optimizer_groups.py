"""Parameters that are none of the model's, as marked parts of its optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def sync_group(model: Any, mark: str, parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters to the model's optimizer as a group of their own, in place of what the group held.

    Where a learning rate scheduler was made before, they stand at the end of the first group instead: a scheduler
    keeps a rate, and `LambdaLR` a function, for each group that it found.

    Called whenever there may be a new optimizer or new parameters; does nothing where all is as it should be, or
    there is no optimizer yet.

    Parameters
    ----------
    model : wrapped or augmented model
        Its class says in `optimizer_name` where the library keeps the optimizer.
    mark : str
        Key that tells the group from the others.
    parameters : iterable of Parameter
        None at all takes the group away.
    """
    optim = getattr(model, model.optimizer_name, None)
    if optim is None:
        return
    wanted = list(parameters)
    tail = f"{mark}_tail"
    present = [p for group in optim.param_groups if group.get(mark) for p in group["params"]]
    present += [p for group in optim.param_groups if group.get(tail) for p in group["params"][-group[tail] :]]
    if [id(parameter) for parameter in wanted] == [id(parameter) for parameter in present]:
        return
    own = next((group for group in optim.param_groups if mark in group), None)
    if own is not None:  # kept, be it empty: a scheduler may know it
        for parameter in present:
            optim.state.pop(parameter, None)
        own["params"] = wanted
        return
    leave_group(model, mark)
    first = optim.param_groups[0]
    if wanted and "initial_lr" in first:
        first["params"].extend(wanted)
        first[tail] = len(wanted)
    elif wanted:
        undecayed = {"weight_decay": 0.0} if "weight_decay" in optim.defaults else {}
        optim.add_param_group({"params": wanted, mark: True, **undecayed})


def leave_group(model: Any, mark: str) -> None:
    """Take such parameters, and what was learnt of them, out of the model's optimizer."""
    optim = getattr(model, model.optimizer_name, None)
    if optim is None:
        return
    left = []
    for group in list(optim.param_groups):
        if group.get(mark):
            optim.param_groups.remove(group)
            left += group["params"]
        if n_tail := group.pop(f"{mark}_tail", 0):
            left += group["params"][-n_tail:]
            del group["params"][-n_tail:]
    for parameter in left:
        optim.state.pop(parameter, None)
