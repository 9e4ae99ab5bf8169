"""What a file of scores says about how it was made, and how far its scores follow the order of the prompts."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from ..errors import OrderEchoWarning

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

    def warn(self) -> None:
        """Warn if the scores are an echo."""
        if self.is_echo:
            first = "first" if self.correlation < 0 else "last"
            warnings.warn(
                f"the scores follow the order of the prompts: rank correlation {self.correlation:.2f} with the place "
                f"in the prompt over {self.answers} answers, what stands {first} is scored highest. They say little "
                "about the items. Ask about each user several times in other orders (--repeats 3 of sllmr score) and "
                "look at the column spread, or use another model or --answer.",
                OrderEchoWarning,
                stacklevel=3,
            )

    def __str__(self) -> str:
        return f"rank correlation of score and place in the prompt {self.correlation:.2f} ({self.answers} answers)"


def recorded_order(origin: dict[str, Any], frame: pd.DataFrame | None = None) -> PromptOrder | None:
    """Return how far the scores of a table follow the prompts' order; None where neither origin nor columns say it.

    Parameters
    ----------
    origin : dict
        As of `read_origin`. What `sllmr score` noted there is of single answers, so it comes first.
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
