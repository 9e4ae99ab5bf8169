"""`embed_texts`: titles and descriptions in, table of vectors out; ``sllmr embed`` in Python."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np
import pandas as pd

from ...errors import ConfigError, DataError, IncompleteWarning, ScoringStoppedError
from ...scores.origin import check_parquet_path, write_parquet
from ...scores.reading import read_table
from ...scores.texts import IdTexts, texts_in
from ...settings import Bounds
from ..asking import Asked, WrittenTable
from ..ledger import Ledger
from ..ledger_file import LedgerAnswer, LedgerReader
from ..prices import RunSummary, Spending
from ..requests import TableLike
from ..run import Estimate, estimate, run
from ..settings import RequestSettings, takes
from .client import EmbeddingClient
from .questions import EmbeddingLedger, EmbeddingQuestions, EmbeddingRequest, text_key


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(RequestSettings):
    """What `embed_texts` can be told besides its files; and all of `RequestSettings`.

    Parameters
    ----------
    model : str, default="text-embedding-3-small"
        As the server calls it.
    dimensions : int, optional
        Length of the vectors, for models that offer several; by default the server's.
    batch_size : int, default=100
        Texts a request.
    """

    model: str = "text-embedding-3-small"
    dimensions: Annotated[int, Bounds(least=1)] | None = None
    batch_size: Annotated[int, Bounds(least=1)] = 100

    def questions(self) -> EmbeddingQuestions:
        """Return what to ask."""
        return EmbeddingQuestions(
            self.model, dimensions=self.dimensions, attempts=self.attempts, extra_body=self.extra_body
        )

    def client(self) -> EmbeddingClient:
        """Return whom to ask, with this process's key."""
        return EmbeddingClient(self.model, base_url=self.base_url, timeout=self.timeout)


@dataclass(frozen=True)
class EmbeddingCounts:
    """What became of the texts.

    Attributes
    ----------
    items, users : int
        Vectors of each kind.
    without : int
        Ids whose text has no vector.
    reused : int
        Texts that the ledger had the vectors of.
    dimensions : int
        Numbers of a vector.
    """

    items: int
    users: int
    without: int
    reused: int
    dimensions: int

    def __str__(self) -> str:
        users = f" and {self.users} users" if self.users else ""
        lines = [f"vectors of {self.dimensions} numbers of {self.items} items{users}"]
        if self.reused:
            lines.append(f"  {self.reused} of their texts had a vector in the ledger")
        if self.without:
            lines.append(f"  {self.without} ids have no vector")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingResult(WrittenTable):
    """A table of vectors that is written, ``kind, id, vector``, with its `EmbeddingCounts`, and how it came about.

    Attributes are those of `WrittenTable`.
    """

    counts: EmbeddingCounts
    name = "Vectors"


@overload
def embed_texts(
    items: TableLike | None = ...,
    texts: TableLike | None = ...,
    *,
    out: str | os.PathLike[str],
    dry_run: Literal[False] = ...,
    verbose: bool = ...,
    **settings: Any,
) -> EmbeddingResult: ...


@overload
def embed_texts(
    items: TableLike | None = ...,
    texts: TableLike | None = ...,
    *,
    out: str | os.PathLike[str],
    dry_run: bool,
    verbose: bool = ...,
    **settings: Any,
) -> EmbeddingResult | Estimate: ...


@takes(EmbedSettings)
def embed_texts(
    items: TableLike | None = None,
    texts: TableLike | None = None,
    *,
    out: str | os.PathLike[str],
    dry_run: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> EmbeddingResult | Estimate:
    """Have titles, descriptions or both embedded by a server and write the vectors: ``sllmr embed`` in Python.

    Every answer is committed to a ledger before it counts, and vectors are found there text by text. Whatever ends the
    run, the same call goes on where it stopped and pays for no text twice; so does one with more items, other batches
    or another order.

    Parameters
    ----------
    items : path or pandas.DataFrame, optional
        The catalogue: ``item_id, title`` (or ``text``, ``description``).
    texts : path or pandas.DataFrame, optional
        A text table, as of `write_texts`: texts of items and profiles of users. With `items`, their titles are put
        before the texts.
    out : path
        The vectors, ``.parquet``, which `Vectors.read` and `initialise` take; replaced as a whole.
    dry_run : bool, default=False
        Send nothing, write nothing, and return what would be asked and cost.
    verbose : bool, default=True
        Show a progress bar.
    **settings
        Fields of `EmbedSettings`, which are the flags of ``sllmr embed``: ``model``, ``base_url``, ``dimensions``,
        ``batch_size``, ``max_cost`` and others.

    Returns
    -------
    EmbeddingResult or Estimate
        The result; its ``repr`` says what was asked, written and spent. An `Estimate` of a dry run.

    Raises
    ------
    DataError, ConfigError
        If files or settings cannot be used; nothing has been asked then.
    DataError
        If no text has a vector, or the vectors are of several lengths.
    ServerError, ScoringStoppedError, PriceError, LedgerError
        If asking is not possible or stops. What was answered is in the ledger.
    KeyboardInterrupt
        After Ctrl-C, when the requests in flight have been answered.

    Warns
    -----
    IncompleteWarning
        If not every text has a vector.
    """
    chosen = EmbedSettings(**settings)
    used = (items, texts, chosen.ledger, chosen.prices)
    path = check_parquet_path(out, (one for one in used if isinstance(one, str | os.PathLike)))
    told = _read(items, texts)
    questions, ledger_path = chosen.questions(), chosen.ledger_beside(path)
    wanted = {text_key(text): text for part in (told.items, told.users) for text in part["text"]}
    if dry_run:
        return _estimate(wanted, questions, ledger_path, chosen)
    client = chosen.client()  # a missing key is told of before anything is touched
    found = FoundVectors(wanted, questions)
    with Ledger(ledger_path) as ledger:
        found.take_stored(ledger)
        n_stored = len(wanted) - len(found.missing())
        summary = _ask(found, questions, client, ledger, chosen, verbose=verbose)
    asked = Asked(summary, found.spending, ledger.path, chosen.price(), chosen.model)
    table = found.table(told, asked)
    without = len(told.items) + len(told.users) - len(table)
    if without:
        warnings.warn(
            f"{without} ids have no vector, so the table lacks them; the summary says what to do.",
            IncompleteWarning,
            stacklevel=2,
        )
    n_of = table["kind"].value_counts()
    counts = EmbeddingCounts(
        items=int(n_of.get("item", 0)),
        users=int(n_of.get("user", 0)),
        without=without,
        reused=n_stored,
        dimensions=len(table["vector"].iloc[0]),
    )
    origin = {
        "writer": "openai",
        "model": chosen.model,
        "settings": questions.recorded(),
        "counts": vars(counts),
        **found.spending.recorded(),
    }
    write_parquet(table, path, origin)
    return EmbeddingResult(path, table, counts, asked)


class FoundVectors:
    """Vectors of texts, as answers bring them.

    Parameters
    ----------
    wanted : dict of str to str
        Hash of a text -> the text.
    questions : EmbeddingQuestions

    Attributes
    ----------
    spending : Spending
        Of all answers with a vector that is wanted.
    """

    def __init__(self, wanted: dict[str, str], questions: EmbeddingQuestions) -> None:
        self._wanted, self._questions = wanted, questions
        self._vectors: dict[str, np.ndarray] = {}
        self.spending = Spending()

    def take(self, request: EmbeddingRequest | None, answer: LedgerAnswer) -> None:
        """Take the vectors of an answer; raise `DataError` if they are of another length than those before."""
        for key, vector in self._questions.vectors(answer):
            if key not in self._wanted:
                continue
            first = next(iter(self._vectors.values()), vector)
            if len(vector) != len(first):
                raise DataError(
                    f"{self._questions.model} gave vectors of {len(first)} numbers and then of {len(vector)}, so they "
                    "are not of one model. Give another --ledger, or say the length with --dimensions."
                )
            self._vectors[key] = vector

    def take_stored(self, ledger: EmbeddingLedger) -> None:
        """Take what a ledger has."""
        for answer in self._questions.stored(ledger):
            if not self._wanted.keys().isdisjoint(answer.request["texts_sha256"]):
                self.spending.add(answer, ())
                self.take(None, answer)

    def missing(self) -> list[str]:
        """Return the texts without a vector."""
        return [text for key, text in self._wanted.items() if key not in self._vectors]

    def table(self, told: IdTexts, asked: Asked) -> pd.DataFrame:
        """Return ``kind, id, vector`` of all ids whose text has one, items first; raise `DataError` if none has."""
        frames = [part.assign(kind=kind) for kind, part in (("item", told.items), ("user", told.users))]
        everything = pd.concat(frames, ignore_index=True)
        vectors = [self._vectors.get(text_key(text)) for text in everything["text"]]
        table = everything.assign(id=everything["id"].astype(str), vector=pd.Series(vectors, dtype=object))
        table = table.loc[table["vector"].notna(), ["kind", "id", "vector"]].reset_index(drop=True)
        if table.empty:
            raise DataError(
                f"not one of {len(everything)} texts has a vector. Look at the failures (sllmr ledger failures) and "
                f"run the same command again.\n{asked}"
            )
        return table


def _read(items: TableLike | None, texts: TableLike | None) -> IdTexts:
    """Return the texts of a catalogue, of a text table, or of both together."""
    if items is None and texts is None:
        raise ConfigError("there is nothing to embed. Give items (titles), a text table, or both.")
    table = read_table(texts if texts is not None else items, "items" if texts is None else "texts")
    if texts is not None:
        table.require_columns(["kind", "id", "text"])
    found = texts_in(table, items if texts is not None else None)
    if found is None:
        raise DataError(f"{table.name} has no column of texts beside 'item_id'. Give it a column 'title'.")
    return found


def _ask(
    found: FoundVectors,
    questions: EmbeddingQuestions,
    client: EmbeddingClient,
    ledger: Ledger,
    chosen: EmbedSettings,
    *,
    verbose: bool,
) -> RunSummary:
    """Ask for the vectors that a ledger lacks; once more, text by text, for batches that come to nothing."""
    total = RunSummary()
    for again in (False, True):
        requests = questions.batches(found.missing(), chosen.batch_size, ledger)
        try:
            summary = run(
                requests,
                questions,
                chosen.client() if again else client,
                ledger,
                limits=chosen.limits(),
                price=chosen.price(),
                verbose=verbose,
                take=found.take,
                spending=found.spending,
            )
        except ScoringStoppedError:
            # A few batches that are all refused may each have one text that is: a longer one, for instance.
            if len(_to_split(requests, questions, ledger)) < len(requests):
                raise
            summary = RunSummary(requests=len(requests), total_cost=ledger.spent())
        for name in ("requests", "asked", "unanswered", "prompt_tokens", "cost"):  # the others are those of the last
            setattr(summary, name, getattr(summary, name) + getattr(total, name))
        total = summary
        if summary.stopped or not _to_split(requests, questions, ledger):
            break
    return total


def _to_split(
    requests: Iterable[EmbeddingRequest], questions: EmbeddingQuestions, ledger: Ledger
) -> list[EmbeddingRequest]:
    """Return the batches that came to nothing."""
    return [one for one in requests if len(one.texts) > 1 and questions.came_to_nothing(one, ledger)]


def _estimate(wanted: dict[str, str], questions: EmbeddingQuestions, path: Path, chosen: EmbedSettings) -> Estimate:
    """Count what would be asked; the ledger need not exist, and is not made."""
    found = FoundVectors(wanted, questions)
    with LedgerReader(path) if path.exists() else contextlib.nullcontext() as ledger:
        if ledger is not None:
            found.take_stored(ledger)
        missing = found.missing()
        requests = questions.batches(missing, chosen.batch_size, ledger)
        result = estimate(requests, questions, ledger, chosen.price(), show=0)
    return replace(result, assumed=f"{len(wanted) - len(missing)} of {len(wanted)} texts have a vector in the ledger")
