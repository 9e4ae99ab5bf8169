"""What a parquet file of scores says about how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet

_OF_THE_FORMAT = ("pandas", "ARROW:schema")


def read_origin(path: str | Path) -> dict[str, Any]:
    """Read the schema metadata of a parquet file.

    Parameters
    ----------
    path : path
        A file of scores that can be read.

    Returns
    -------
    dict
        Key -> text, for every key that is not part of the format. Where a text is a JSON object, as what this
        package writes, its fields take the place of the key. Empty for files that are not parquet.
    """
    if Path(path).suffix.lower() not in (".parquet", ".pq"):
        return {}
    origin: dict[str, Any] = {}
    for key, value in (pyarrow.parquet.read_schema(path).metadata or {}).items():
        name, text = (part.decode("utf-8", errors="replace") for part in (key, value))
        if name in _OF_THE_FORMAT:
            continue
        try:
            content = json.loads(text)
        except ValueError:
            content = text
        origin |= content if isinstance(content, dict) else {name: text}
    return origin
