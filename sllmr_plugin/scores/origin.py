"""Parquet files with their origin: how one is written and read, and how far scores follow the prompts' order."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from .. import __version__
from ..errors import DataError, OrderEchoWarning

#: From this rank correlation on, scores are taken for an echo of the prompts' order.
ECHO = 0.8
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
        package writes, its fields replace the key. Empty for files that are not parquet.
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


@dataclass(frozen=True)
class PromptOrder:
    """How far scores follow the order in which the prompts showed the candidates.

    The orders are shuffled, so a model that judges the candidates has a correlation near 0.

    Attributes
    ----------
    correlation : float
        Spearman's rank correlation of a candidate's place in the prompt and its score, averaged over answers with
        weights n - 1 for n candidates, the inverse of its variance under shuffling. -1: what stands first is scored
        highest, as in a ranking 1, 2, 3, ...; 1: what stands last is.
    answers : int
        Answers with two different scores, which are those averaged.
    chance : float
        Standard deviation of the correlation if the order does not matter.
    """

    correlation: float
    answers: int
    chance: float

    @classmethod
    def of(cls, answer: np.ndarray, position: np.ndarray, score: np.ndarray) -> PromptOrder | None:
        """Measure it; None if no answer has two different scores.

        Parameters
        ----------
        answer : ndarray
            (n,) which answer a score is of.
        position, score : ndarray
            (n,) places in the prompt and scores; pairs with a NaN are left out.
        """
        rows = pd.DataFrame({"answer": answer, "position": position, "score": score}).dropna()
        ranks = rows.groupby("answer", sort=False)[["position", "score"]].rank()
        ranks -= ranks.groupby(rows["answer"], sort=False).transform("mean")
        product = ranks["position"] * ranks["score"]
        sums = pd.DataFrame({"xy": product, "xx": ranks["position"] ** 2, "yy": ranks["score"] ** 2})
        of_answer = sums.groupby(rows["answer"], sort=False).sum()
        freedom = rows.groupby("answer", sort=False).size() - 1
        ordered = (of_answer["xx"] > 0) & (of_answer["yy"] > 0)
        if not ordered.any():
            return None
        of_answer, freedom = of_answer[ordered], freedom[ordered]
        correlation = of_answer["xy"] / np.sqrt(of_answer["xx"] * of_answer["yy"])
        return cls(float(np.average(correlation, weights=freedom)), len(freedom), float(freedom.sum() ** -0.5))

    @property
    def is_echo(self) -> bool:
        """Whether the correlation is `ECHO` or more, to either side, and more than two standard deviations of chance.

        One answer on two candidates is perfectly ordered regardless of the model.
        """
        return abs(self.correlation) >= max(ECHO, 2 * self.chance) - 1e-9

    def warn(self, stacklevel: int = 3) -> None:
        """Warn if the scores are an echo; `stacklevel` is that of `warnings.warn`."""
        if self.is_echo:
            first = "first" if self.correlation < 0 else "last"
            warnings.warn(
                f"the scores follow the order of the prompts: rank correlation {self.correlation:.2f} with the place "
                f"in the prompt over {self.answers} answers, what stands {first} is scored highest. They say little "
                "about the items. Ask about each user several times in other orders (--repeats 3 of sllmr score) and "
                "look at the column spread, or use another model or --answer.",
                OrderEchoWarning,
                stacklevel=stacklevel,
            )

    def __str__(self) -> str:
        return f"rank correlation of score and place in the prompt {self.correlation:.2f} ({self.answers} answers)"


def recorded_order(origin: dict[str, Any], frame: pd.DataFrame | None = None) -> PromptOrder | None:
    """Return how far the scores of a table follow the prompts' order; None if neither origin nor columns say it.

    Parameters
    ----------
    origin : dict
        What `read_origin` returns. What `sllmr score` noted there is of single answers, so it comes first.
    frame : pandas.DataFrame, optional
        The table; its column ``prompt_position`` is of a user's first answer, its scores are means over all.
    """
    try:
        noted = origin.get("prompt_order") or origin["counts"]["prompt_order"]
        return PromptOrder(float(noted["correlation"]), int(noted["answers"]), float(noted["chance"]))
    except (KeyError, TypeError, ValueError):
        pass
    if frame is None or not {"user_id", "score", "prompt_position"} <= set(frame.columns):
        return None
    score, position = (pd.to_numeric(frame[name], errors="coerce") for name in ("score", "prompt_position"))
    if "n_answers" in frame.columns:  # 0: the score was put there, no answer has it
        score = score.where(pd.to_numeric(frame["n_answers"], errors="coerce") != 0)
    known = frame["user_id"].notna().to_numpy()
    user = pd.factorize(frame["user_id"])[0]
    return PromptOrder.of(user[known], position.to_numpy(float)[known], score.to_numpy(float)[known])


_KEY = b"sllmr_plugin"


def write_parquet(frame: pd.DataFrame, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Write a table with its origin; a reader, or a crash, never meets half a file.

    Parameters
    ----------
    frame : pandas.DataFrame
        The rows; the index is not written.
    path : path
        Ends in ``.parquet`` or ``.pq``. Missing folders are made; a file that is there is replaced.
    metadata : mapping
        Plain JSON values. ``package_version`` and ``created`` (UTC, ISO 8601) are added.

    Raises
    ------
    DataError
        If the name ends otherwise, or the file cannot be written.
    """
    path = check_parquet_path(path)
    origin = {
        **metadata,
        "package_version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: json.dumps(origin).encode()})
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written ({error}); choose another place.") from None


def check_parquet_path(path: str | os.PathLike[str], in_use: Iterable[object] = ()) -> Path:
    """Return the path if `write_parquet` takes its name: to be checked before hours of work, not after.

    Parameters
    ----------
    path : path
        What is to be written.
    in_use : iterable
        Files of the same work, which writing must not replace; others are passed over.

    Raises
    ------
    DataError
        If it does not end in ``.parquet`` or ``.pq``, is a folder, or is one of the files in use.
    """
    path = Path(path)
    for other in in_use:
        if isinstance(other, str | os.PathLike) and Path(other).resolve() == path.resolve():
            raise DataError(f"{path}: is a file that this very run uses, which would be lost; write to another one.")
    if path.suffix.lower() not in (".parquet", ".pq") or path.is_dir():
        raise DataError(f"{path}: cannot be written as parquet; give a file name that ends in .parquet.")
    return path


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read how a file was made.

    Parameters
    ----------
    path : path
        A parquet file.

    Returns
    -------
    dict
        What `write_parquet` was given and added; empty for a parquet file made by something else.

    Raises
    ------
    DataError
        If the file is missing or not a parquet file.
    """
    try:
        found = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}); give a file that this package wrote.") from None
    return json.loads(found[_KEY]) if _KEY in found else {}
