"""Import DeepCTR-Torch without its version check, which asks the network from a thread."""

from __future__ import annotations

import importlib
import sys
import types


def import_deepctr_torch() -> types.ModuleType:
    """Import `deepctr_torch` so that it starts no thread and asks no network.

    The package's ``__init__`` calls ``utils.check_version``, whose request has no timeout: where packets
    are dropped the interpreter cannot exit until the request gives up. A stand-in for ``deepctr_torch.utils``
    is in place only while the package is imported for the first time.

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


class QuietImport:
    """Before the class of a DeepCTR-Torch model in a pickle: unpickled first, it imports the library quietly."""

    def __reduce__(self) -> tuple:
        """Become a call of `import_deepctr_torch`."""
        return import_deepctr_torch, ()
