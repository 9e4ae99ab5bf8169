"""Files of a folder of results: written whole or not at all, told apart by the settings behind them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunFolderError
from ..scores.table import ScoreTable


def read_json(path: Path) -> Any:
    """Read a JSON file; `RunFolderError` if that cannot be done."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); choose another folder or delete it.") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; NaN is refused, since JSON lacks it."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that a reader, or a crash, never meets half of it."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def changes(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name every setting that differs between those read from a file and those wanted."""
    wanted = json.loads(json.dumps(wanted))  # tuples read back as lists
    return [
        f"{name} was {there.get(name)}, now {wanted.get(name)}"
        for name in {**wanted, **there}
        if wanted.get(name) != there.get(name)
    ]


def digest(*arrays: np.ndarray) -> str:
    """Return a fingerprint of arrays, so that a folder tells other data apart."""
    fingerprint = hashlib.sha256()
    for array in arrays:
        fingerprint.update(repr((array.shape, str(array.dtype))).encode())
        fingerprint.update(np.ascontiguousarray(array).tobytes())
    return fingerprint.hexdigest()[:16]


def score_digest(scores: ScoreTable) -> str:
    """Return a fingerprint of a score table."""
    return digest(
        *(
            part.numpy()
            for group in (scores.candidates, scores.probes)
            for part in (group.users, group.offsets, group.items, group.scores)
        )
    )
