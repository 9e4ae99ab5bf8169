"""A model's last linear layer, which reads what the model has made of a row."""

from __future__ import annotations

from torch import nn

from ..errors import UnsupportedModelError


def last_layer(model: nn.Module, name: str | None) -> tuple[str, int]:
    """Find the layer whose input is what a model makes of a row, before it makes a score of it.

    Parameters
    ----------
    model : nn.Module
    name : str or None
        Of a linear layer, as `named_modules` has it. By default, of those that make one number of several, the least
        nested, and the first of these.

    Returns
    -------
    tuple of (str, int)
        Its name, and how many numbers it reads.

    Raises
    ------
    UnsupportedModelError
        If there is no such layer.
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is not None:
        if name not in linear:
            raise UnsupportedModelError(
                [f"the model has no linear layer {name!r}. Its linear layers are {', '.join(linear) or 'none'}."]
            )
        return name, linear[name].in_features
    last = [path for path, module in linear.items() if module.out_features == 1 < module.in_features]
    if not last:
        raise UnsupportedModelError(
            [
                f"{type(model).__name__} has no linear layer that makes one number of several, so it is unclear which "
                "features are its last. Name a linear layer whose input they are (layer=): "
                f"{', '.join(linear) or 'it has none, so take another backbone'}."
            ]
        )
    chosen = min(last, key=lambda path: path.count("."))
    return chosen, linear[chosen].in_features
