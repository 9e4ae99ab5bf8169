"""`explain`: the reasons that a user's pattern attended to for an item, and what the model made of each."""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..backends.augment import is_augmented
from ..backends.base import row_model
from ..errors import EvaluationError
from ..knowledge import CURecAdaptor
from ..scores.ids import IdIndex, encode_ids
from .model_scores import evaluation_mode


@dataclass(frozen=True)
class AttendedReason:
    """A reason, how much the user attended to it, and what it did to the score.

    Attributes
    ----------
    text : str
        Why another user took the item. Who that was is not kept.
    weight : float
        Mean attention weight over the heads; those of all reasons of the item that the user may see sum to 1.
    head_weights : tuple of float
        The weight in each head.
    score_without : float
        The model's score if there were no such reason: the others share its weight.
    """

    text: str
    weight: float
    head_weights: tuple[float, ...]
    score_without: float


@dataclass(frozen=True)
class Explanation:
    """Why a model gives an item to a user its score, as far as reasons have to do with it.

    Attributes
    ----------
    user, item : Hashable
        As they were given.
    title : str
        Of the item, if it was given.
    score : float
        The model's prediction, a probability.
    score_without_reasons : float
        The same if the item had no reasons.
    pattern : str
        What was written about the user; "" if nothing was.
    reasons : tuple of AttendedReason
        Those of the highest weight, the highest first.
    n_reasons : int
        Reasons of the item that the user may see.
    """

    user: Hashable
    item: Hashable
    title: str
    score: float
    score_without_reasons: float
    pattern: str
    reasons: tuple[AttendedReason, ...]
    n_reasons: int

    def __str__(self) -> str:
        lines = [
            f"user {self.user}, item {self.item}{f' ({self.title})' if self.title else ''}: score {self.score:.4f}, "
            f"without reasons {self.score_without_reasons:.4f}",
            f"  the user's pattern: {self.pattern or 'none was written'}",
        ]
        shown = f"{len(self.reasons)} of {self.n_reasons} reasons of other users, by attention"
        lines.append(f"  {shown}:" if self.reasons else "  no other user's reason about the item")
        for reason in self.reasons:
            change = self.score - reason.score_without
            lines.append(f"  {reason.weight:.2f}  score {change:+.4f}  {reason.text}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = asdict(self)
        values["reasons"] = [{**one, "head_weights": list(one["head_weights"])} for one in values["reasons"]]
        return values

    def to_html(self) -> str:
        """Return a card: a piece of HTML that needs nothing else. Texts are escaped."""
        rows = "".join(
            f'<tr><td style="width:7em;padding:.3em .6em .3em 0"><div style="background:#4472c4;height:.7em;'
            f'width:{100 * reason.weight:.0f}%"></div></td>'
            f'<td style="padding:.3em .6em;text-align:right">{reason.weight:.2f}</td>'
            f'<td style="padding:.3em .6em;text-align:right">{self.score - reason.score_without:+.4f}</td>'
            f'<td style="padding:.3em 0">{html.escape(reason.text)}</td></tr>'
            for reason in self.reasons
        )
        head = (
            "<tr><th></th><th>attention</th><th>score</th><th style='text-align:left'>reason of another user</th></tr>"
        )
        table = (
            f'<table style="border-collapse:collapse">{head}{rows}</table>'
            if rows
            else ("<p>No other user's reason about the item.</p>")
        )
        name = f"{self.title} ({self.item})" if self.title else str(self.item)
        return (
            '<div style="font-family:sans-serif;max-width:48em;border:1px solid #bbb;border-radius:6px;padding:1em">'
            f'<h3 style="margin:0 0 .4em">{html.escape(name)}</h3>'
            f"<p>For user {html.escape(str(self.user))}: score {self.score:.4f}, without reasons "
            f"{self.score_without_reasons:.4f}; {len(self.reasons)} of {self.n_reasons} reasons.</p>"
            f"<p><em>{html.escape(self.pattern) or 'No pattern was written.'}</em></p>{table}</div>"
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def cards_page(explanations: Sequence[Explanation]) -> str:
    """Return explanations as an HTML page of their cards."""
    cards = "\n".join(f'<div style="margin:1em">{one.to_html()}</div>' for one in explanations)
    return f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Reasons</title>\n{cards}\n</html>\n'


def explain(
    model: Any,
    user: Hashable,
    item: Hashable,
    k: int = 3,
    *,
    x: Mapping[str, np.ndarray] | None = None,
    user_index: IdIndex | None = None,
    item_index: IdIndex | None = None,
    title: str = "",
) -> Explanation:
    """Say which reasons a user's pattern attended to for an item, and what the model made of each.

    Weights are those of the attention in `CURecAdaptor`, whose output is an input of the model: they say what the model
    was shown, and ``score_without`` says what it did with it. Neither says that the user would agree.

    Parameters
    ----------
    model : augmented model
        Trained with a `CURecAdaptor` whose reasons are fused by attention; DeepCTR-Torch or FuxiCTR, wrapped or not.
    user, item : Hashable
        Raw ids, if there are indexes, else codes.
    k : int, default=3
        Reasons returned, at most: those of the highest weight.
    x : mapping of str to ndarray, optional
        The model's other inputs of this user and item, one row each. Needed if it has any.
    user_index, item_index : mapping, pandas.Series or fitted sklearn LabelEncoder, optional
        Raw id -> code in the model's input.
    title : str, default=""
        Of the item, to be shown.

    Returns
    -------
    Explanation

    Raises
    ------
    EvaluationError
        If the model has no such adaptor, an id is unknown, or inputs are missing.
    ConfigError
        If the reasons are not fused by attention.

    Examples
    --------
    >>> print(explain(model, user=17, item=42, k=3))  # doctest: +SKIP
    """
    adaptor = model.augmentation.adaptor if is_augmented(model) else None
    if not isinstance(adaptor, CURecAdaptor):
        raise EvaluationError(
            f"a {type(model).__name__} {f'with {type(adaptor).__name__} ' if adaptor else ''}has no reasons to show. "
            "Augment it with a CURecAdaptor and train it."
        )
    if k < 1:
        raise EvaluationError(f"k={k} shows no reason. Give at least 1.")
    codes = [_code(user, user_index, "user"), _code(item, item_index, "item")]
    scorer = row_model(model)
    row = _row(scorer, model.augmentation, codes, x or {})
    pair = [torch.tensor([code], device=row.device) for code in codes]
    with evaluation_mode(model):
        numbers, weights = adaptor.attention(*pair)
        there = numbers[0] >= 0
        seen, of_heads = numbers[0][there].tolist(), weights[0][:, there].T  # (n, heads)
        order = of_heads.mean(dim=1).argsort(descending=True, stable=True)[:k].tolist()
        score = score_row(scorer, row)
        without = []
        for hidden in [seen, *([seen[place]] for place in order)]:
            with adaptor.reasons.without(hidden):
                without.append(score_row(scorer, row))
    reasons = tuple(
        AttendedReason(
            adaptor.texts[seen[place]],
            float(of_heads[place].mean()),
            tuple(of_heads[place].tolist()),
            score_without,
        )
        for place, score_without in zip(order, without[1:], strict=True)
    )
    pattern = adaptor.pattern_texts.get(codes[0], "")
    return Explanation(user, item, title, score, without[0], pattern, reasons, len(seen))


def _code(raw: Hashable, index: IdIndex | None, what: str) -> int:
    code = int(encode_ids(pd.Series([raw]), index, what=f"{what} id", written=isinstance(raw, str))[0])
    if code < 0:
        raise EvaluationError(f"{what} {raw!r} is not known. Give the raw id, with {what}_index=, or its code.")
    return code


def _row(scorer: Any, augmentation: Any, codes: Sequence[int], x: Mapping[str, np.ndarray]) -> Tensor:
    """Return the input row of a user and an item, (1, width)."""
    layout: Mapping[str, tuple[int, int]] = scorer.feature_index
    filled = {augmentation.user: codes[0], augmentation.item: codes[1]}
    filled |= dict.fromkeys(getattr(augmentation, "names", augmentation.adaptor.widths), 0)
    lacking = [name for name in layout if name not in filled and name not in x]
    if lacking:
        raise EvaluationError(
            f"the model also reads {', '.join(lacking)}. Pass x=, a mapping with a row of each for this user and item."
        )
    dtype = torch.float64 if any(p.dtype == torch.float64 for p in scorer.parameters()) else torch.float32
    row = torch.zeros(1, max(end for _, end in layout.values()), dtype=dtype)
    for name, (first, end) in layout.items():
        values = np.asarray(filled.get(name, x.get(name)), dtype=np.float64)
        if values.size not in (1, end - first):
            raise EvaluationError(f"x[{name!r}] has {values.size} values, the model reads {end - first}. Pass one row.")
        row[0, first:end] = torch.from_numpy(np.broadcast_to(values.reshape(-1), (end - first,)).copy())
    return row.to(next(scorer.parameters()).device)


def score_row(scorer: Any, row: Tensor) -> float:
    """Return a model's score of an input row, (1, width)."""
    output = scorer(row.repeat(2, 1))  # DeepCTR-Torch's DCNMix fails on a batch of one
    if output.numel() != 2:
        raise EvaluationError(f"the model gives {output.numel() // 2} scores a row. Explain a model with one output.")
    return float(output.reshape(-1)[0])
