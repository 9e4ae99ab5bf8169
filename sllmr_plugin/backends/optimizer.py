"""Adds the parameters of a gate or an adaptor to the model's optimizer, and removes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

_JOINED = "sllmr_joined"
"""Key in a parameter group of the user: mark -> positions of the parameters added to it, as plain numbers, which copies
and `state_dict` keep."""


def sync_group(model: Any, mark: str, parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters to the model's optimizer, in place of those that it was given under the same mark.

    Called whenever there may be a new optimizer or new parameters; does nothing if nothing has
    changed, or there is no optimizer yet.

    Parameters
    ----------
    model : wrapped or augmented model
        Its class says in `optimizer_name` where the library keeps the optimizer.
    mark : str
        Key that tells the parameters from others.
    parameters : iterable of Parameter
        An empty one removes them.
    """
    optim = getattr(model, model.optimizer_name, None)
    if optim is None:
        return
    wanted = list(parameters)
    present = [parameter for group in optim.param_groups for parameter in _marked(group, mark)]
    if [id(parameter) for parameter in wanted] == [id(parameter) for parameter in present]:
        return
    counted = [group for group in optim.param_groups if _is_counted(group)]
    own = [group for group in counted if group.get(mark)]
    if own:
        _forget(optim, present)
        own[0]["params"] = wanted
        return
    leave_group(model, mark)
    if not wanted:
        return
    if counted:
        _join(min(counted, key=lambda group: group.get("weight_decay", 0.0)), mark, wanted)
    else:
        undecayed = {"weight_decay": 0.0} if "weight_decay" in optim.defaults else {}
        optim.add_param_group({"params": wanted, mark: True, **undecayed})


def leave_group(model: Any, mark: str) -> None:
    """Remove the parameters under a mark, and their state, from the model's optimizer."""
    optim = getattr(model, model.optimizer_name, None)
    if optim is None:
        return
    for group in list(optim.param_groups):
        _forget(optim, _marked(group, mark))
        if group.get(mark):
            optim.param_groups.remove(group)
        else:
            _part(group, mark)


def _forget(optim: Any, parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        optim.state.pop(parameter, None)


def _is_counted(group: dict[str, Any]) -> bool:
    """Whether a scheduler keeps a value for a group: torch's schedulers set this key when they are created."""
    return "initial_lr" in group


def _marked(group: dict[str, Any], mark: str) -> list[nn.Parameter]:
    if group.get(mark):
        return list(group["params"])
    return [group["params"][position] for position in group.get(_JOINED, {}).get(mark, [])]


def _join(group: dict[str, Any], mark: str, parameters: list[nn.Parameter]) -> None:
    first = len(group["params"])
    group["params"] = [*group["params"], *parameters]
    group.setdefault(_JOINED, {})[mark] = list(range(first, first + len(parameters)))


def _part(group: dict[str, Any], mark: str) -> None:
    joined = group.get(_JOINED, {})
    gone = set(joined.pop(mark, []))
    if not gone:
        return
    kept = [position for position in range(len(group["params"])) if position not in gone]
    group["params"] = [group["params"][position] for position in kept]
    for other, positions in joined.items():
        joined[other] = [kept.index(position) for position in positions]
    if not joined:
        del group[_JOINED]


_GROUP_MARK = "sllmr_gate"


def sync_optimizer(model: Any) -> None:
    """Give the gate's parameters to the optimizer, as a group of their own; see `sync_group`."""
    sync_group(model, _GROUP_MARK, model.sllmr.gate.parameters() if model.sllmr.config.active else ())


def leave_optimizer(model: Any) -> None:
    """Remove the gate's parameters, and their state, from the optimizer."""
    leave_group(model, _GROUP_MARK)
