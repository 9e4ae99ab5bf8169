"""DeepCTR-Torch: its import without a network request, its `fit`, and what is checked before."""

from __future__ import annotations

import importlib
import sys
import types


def import_deepctr_torch() -> types.ModuleType:
    """Import `deepctr_torch` without its version check, which accesses the network from a thread.

    The package's ``__init__`` calls ``utils.check_version``, whose request has no timeout: where packets are dropped,
    the interpreter cannot exit until the request gives up. While the package is imported for the first time, a stand-in
    replaces ``deepctr_torch.utils``.

    Returns
    -------
    module
        The `deepctr_torch` package, the same object as a plain ``import`` gives.
    """
    if "deepctr_torch" in sys.modules:
        return sys.modules["deepctr_torch"]
    stand_in = types.ModuleType("deepctr_torch.utils")
    stand_in.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules["deepctr_torch.utils"] = stand_in
    try:
        package = importlib.import_module("deepctr_torch")
    finally:
        del sys.modules["deepctr_torch.utils"]
    return package


class ImportFirst:
    """Stands before a DeepCTR-Torch class in a pickle, so that unpickling imports the library without its check."""

    def __reduce__(self) -> tuple:
        """Become a call of `import_deepctr_torch`."""
        return import_deepctr_torch, ()
