"""Texts as a text table; texts without a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ...errors import DataError
from ...scores.origin import write_parquet
from ..prices import Spending
from ..prompts import clean_title
from .plan import KINDS, TextRequest, TextRequests

#: What the origin of such texts names in place of a model.
NO_MODEL = "no language model"


def write_titles(requests: Iterable[TextRequest]) -> Iterator[tuple[TextRequest, str]]:
    """Yield each request with what it would have shown a model: the titles of a history; title and attributes.

    Of kind reasoning that is all three, and no step of reasoning: what came of it, the item, the titles before it.

    Examples
    --------
    >>> next(write_titles([TextRequest("item", "i1", ("Go",), (("category", "board games"),))]))[1]
    'Go; category: board games'
    """
    for request in requests:
        titles = [clean_title(title) for title in request.titles]
        attributes = [f"{clean_title(name)}: {clean_title(value)}" for name, value in request.attributes]
        text = "; ".join([*titles, *attributes])
        if request.exemplar is not None:
            came_of_it = "taken" if request.exemplar.label else "not taken"
            item = "; ".join([clean_title(request.exemplar.title), *attributes])
            text = f"{came_of_it}: {item}; after: {'; '.join(titles)}"
        yield request, text


@dataclass(frozen=True)
class TextCounts:
    """What became of the requests.

    Attributes
    ----------
    users_asked, items_asked : int
        Requests.
    users, items : int
        Texts.
    untitled_users, untitled_items : int
        Left out before anything was asked: no title in the training history, and no title.
    exemplars_asked, taken, not_taken : int
        Requests for reasoning, and texts of positive and negative exemplars.
    untold_exemplars : int
        Training positives that could not be asked about: no title, or none before them.
    """

    users_asked: int
    items_asked: int
    users: int
    items: int
    untitled_users: int
    untitled_items: int
    exemplars_asked: int = 0
    taken: int = 0
    not_taken: int = 0
    untold_exemplars: int = 0

    def __str__(self) -> str:
        lines = []
        if self.users_asked or self.items_asked:
            lines.append(
                f"texts of {self.users} of {self.users_asked} users and {self.items} of {self.items_asked} items"
            )
        if self.exemplars_asked:
            lines.append(
                f"reasoning about {self.taken + self.not_taken} of {self.exemplars_asked} exemplars: {self.taken} "
                f"positive, {self.not_taken} negative"
            )
        notes = {
            "users left out: no training interaction with a title": self.untitled_users,
            "items left out: no title": self.untitled_items,
            "training interactions that are no exemplars: no title, or none before them": self.untold_exemplars,
        }
        return "\n".join(lines + [f"  {count} {what}" for what, count in notes.items() if count])


@dataclass(frozen=True, eq=False)
class WrittenTexts:
    """A text table that is not written to a file yet.

    Attributes
    ----------
    frame : pandas.DataFrame
        ``kind, id, text``, all text, users first: what `sllmr_plugin.TextTable.read` reads. With reasoning also
        ``item_id`` (text) and ``label`` (Int8), missing in other rows.
    counts : TextCounts
        What the rows do not show.
    """

    frame: pd.DataFrame
    counts: TextCounts


def build_text_table(requests: TextRequests, texts: Iterable[tuple[TextRequest, str]]) -> WrittenTexts:
    """Put the texts together.

    Parameters
    ----------
    requests : TextRequests
        All requests of the run; the table has its texts in its order, by kind.
    texts : iterable of (TextRequest, str)
        In any order; requests that failed or were not made are left out.

    Raises
    ------
    DataError
        If there is no text at all.
    """
    place = {request: number for number, request in enumerate(requests)}
    rows = [_row(request, text) for request, text in sorted(texts, key=lambda one: place[one[0]])]
    if not rows:
        raise DataError(
            f"not one of {len(requests)} texts was written. Look at the failures (sllmr ledger failures) and run the "
            "same command again."
        )
    frame = pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"]).astype({"label": "Int8"})
    frame = frame.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable").reset_index(drop=True)
    n_of = frame["kind"].value_counts()
    if "reasoning" not in n_of:
        frame = frame[["kind", "id", "text"]]
    n_taken = int((frame["label"] == 1).sum()) if "label" in frame else 0
    counts = TextCounts(
        users_asked=len(requests.users),
        items_asked=len(requests.items),
        users=int(n_of.get("user", 0)),
        items=int(n_of.get("item", 0)),
        untitled_users=requests.untitled_users,
        untitled_items=requests.untitled_items,
        exemplars_asked=len(requests.exemplars),
        taken=n_taken,
        not_taken=int(n_of.get("reasoning", 0)) - n_taken,
        untold_exemplars=requests.untold_exemplars,
    )
    return WrittenTexts(frame, counts)


def _row(request: TextRequest, text: str) -> tuple[str, str, str, str | None, int | None]:
    about = request.exemplar
    what = (None, None) if about is None else (str(about.item_id), about.label)
    return request.kind, str(request.id), text, *what


def write_text_table(
    written: WrittenTexts,
    path: str | os.PathLike[str],
    *,
    writer: str,
    model: str,
    prompt_hash: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    spending: Spending | None = None,
) -> None:
    """Write the table as parquet, with its origin in the schema (see `parquet.read_metadata`).

    Parameters
    ----------
    written : WrittenTexts
        From `build_text_table`.
    path : path
        Ends in ``.parquet``; replaced as a whole.
    writer : str
        Who wrote, for instance ``"openai"`` or ``"titles"``.
    model : str
        The language model; `writer.NO_MODEL` where there was none.
    prompt_hash : mapping, optional
        Kind -> hash of its prompt.
    settings : mapping, optional
        What else decided the texts; plain JSON values without secrets.
    spending : Spending, optional
        Tokens and dollars of the answers.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    kinds = written.frame["kind"].unique().tolist()
    origin = {
        "writer": writer,
        "model": model,
        "kind": ",".join(kinds),
        "prompt_hash": {kind: found for kind, found in (prompt_hash or {}).items() if kind in kinds} or None,
        "settings": dict(settings or {}),
        "counts": asdict(written.counts),
        **(spending.recorded() if spending else {}),
    }
    write_parquet(written.frame, path, origin)
