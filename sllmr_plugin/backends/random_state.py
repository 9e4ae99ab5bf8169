"""The global random numbers, left as they were: batches of a later training come in the plain model's order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept(device: torch.device | str = "cpu") -> Iterator[None]:
    """Leave the global random numbers of torch, numpy and Python as they were, on a GPU those of that device, too."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the library's own draws use it)
    where = torch.device(device)
    try:
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
