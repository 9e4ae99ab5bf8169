"""Scorers without a server: any object with a method score, here or on an engine; `LexicalScorer`."""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from ..errors import AnswerError, ConfigError, DataError, ScoringStoppedError
from ..parallel.engine import Engine
from .ledger import Ledger
from .ledger_file import LedgerAnswer, ledger_key
from .prompts import SCHEMA_VERSION
from .requests import ScoredAnswer, Scorer, ScoringRequest


def score_with(
    scorer: Scorer,
    requests: Iterable[ScoringRequest],
    *,
    name: str | None = None,
    ledger: Ledger | None = None,
    threads: int = 1,
    verbose: bool = True,
) -> Iterator[tuple[ScoringRequest, ScoredAnswer]]:
    """Score requests with an object that has the method of `Scorer`.

    Parameters
    ----------
    scorer : Scorer
        Its ``score(request)`` returns a `ScoredAnswer` or a mapping of item id to score in [0, 1]. Items
        left out are missing, items that were not asked are dropped and counted.
    requests : iterable of ScoringRequest
        Taken as they are needed.
    name : str, optional
        What the answers are kept under; needed with a ledger. Change it whenever the scorer changes, else the ledger
        gives back what the old one said.
    ledger : Ledger, optional
        Keeps the answers, for scorers that are slow or cost money.
    threads : int, default=1
        Calls at a time; more than one needs a scorer that is safe to call from several threads.
    verbose : bool, default=True
        Show progress.

    Yields
    ------
    request : ScoringRequest
        In the order of `requests`.
    answer : ScoredAnswer
        Committed to the ledger, where there is one.

    Raises
    ------
    ScoringStoppedError
        If the scorer raises.
    AnswerError
        If it returns something else, or a score that is not a number in [0, 1].
    """
    if ledger is not None and not name:
        raise ConfigError("answers in a ledger need a name. Pass name=, another one for each version of your model.")

    def settle(request: ScoringRequest) -> ScoredAnswer:
        key = _key(request, str(name)) if ledger is not None else ""
        kept = ledger.get(key) if ledger is not None else None
        if kept is not None:
            scores = dict(zip(request.item_ids, kept.scores or (), strict=True))
            found = {item: score for item, score in scores.items() if score is not None}
            missing = tuple(item for item in request.item_ids if item not in found)
            return ScoredAnswer(found, missing, kept.n_unasked, kept.n_duplicates)
        answer = score_one(scorer, request, kept="; answers so far are in the ledger." if ledger is not None else ".")
        if ledger is not None:
            ledger.record(_entry(key, request, answer, str(name))).result()
        return answer

    total = len(requests) if isinstance(requests, Sized) else None
    waiting: deque[tuple[ScoringRequest, Future[ScoredAnswer]]] = deque()
    bar = tqdm(total=total, unit=" requests", disable=not verbose, file=sys.stderr, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(threads) as pool:
        try:
            for request in requests:
                waiting.append((request, pool.submit(settle, request)))
                if len(waiting) > 2 * threads:
                    yield _take(waiting)
                    bar.update()
            while waiting:
                yield _take(waiting)
                bar.update()
        finally:
            for _, future in waiting:
                future.cancel()


def score_one(scorer: Scorer, request: ScoringRequest, *, kept: str = ".") -> ScoredAnswer:
    """Return a scorer's answer, checked; raise `ScoringStoppedError`, whose text ends in `kept`, if it raises."""
    try:
        returned = scorer.score(request)
    except Exception as error:
        raise ScoringStoppedError(
            f"the scorer failed for user {request.user_id!r}: {type(error).__name__}: {error}. Correct it and run "
            f"the same again{kept}"
        ) from error
    return checked(returned, request)


def checked(returned: Any, request: ScoringRequest) -> ScoredAnswer:
    """Return what a scorer has returned as an answer to the request, or raise `AnswerError`."""
    scores = returned.scores if isinstance(returned, ScoredAnswer) else returned
    if not isinstance(scores, Mapping):
        raise AnswerError(
            f"the scorer returned a {type(returned).__name__} for user {request.user_id!r}. Return a mapping of item "
            "id to score."
        )
    asked = set(request.item_ids)
    found = {}
    for item, score in scores.items():
        if item not in asked:
            continue
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise AnswerError(
                f"the scorer gave item {item!r} of user {request.user_id!r} the score {score!r}. Return numbers in "
                "[0, 1], and leave out what you cannot score."
            )
        found[item] = number
    missing = tuple(item for item in request.item_ids if item not in found)
    unasked = len(scores) - len(found)
    if isinstance(returned, ScoredAnswer):
        return ScoredAnswer(found, missing, returned.n_unasked + unasked, returned.n_duplicates)
    return ScoredAnswer(found, missing, unasked)


def load_scorer(spec: str) -> Scorer:
    """Return the scorer that a text such as ``my_module:scorer`` names.

    Parameters
    ----------
    spec : str
        A module that can be imported, also from the current folder, and a name in it: an object with a method
        ``score``, or a class or function that makes one without arguments.

    Raises
    ------
    ConfigError
        If there is no such object.
    """
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), name)
        scorer = found() if isinstance(found, type) or not hasattr(found, "score") else found
    except Exception as error:  # a user's module may fail in any way
        raise ConfigError(
            f"the scorer {spec} cannot be loaded ({type(error).__name__}: {error}). Name it as MODULE:NAME, where NAME "
            "is an object with a method score(request), or a class or function that makes one."
        ) from error
    if not callable(getattr(scorer, "score", None)):
        raise ConfigError(f"the scorer {spec} has no method score(request). Give it one.")
    return scorer


def find_scorer(scorer: str | Scorer, titles: Iterable[str] | None, *, by_name: bool = False) -> Any:
    """Return the object that a setting names.

    Parameters
    ----------
    scorer : str or Scorer
        ``lexical``, ``attributes``, ``MODULE:NAME``, or the object itself.
    titles : iterable of str or None
        Of the whole catalogue.
    by_name : bool, default=False
        Leave ``MODULE:NAME`` as it is, for processes that make their own; a wrong name is an error all the same.

    Raises
    ------
    ConfigError
        If there is no such scorer.
    """
    if not isinstance(scorer, str):
        return scorer
    if scorer in ("lexical", "attributes"):
        return LexicalScorer([] if titles is None else titles, words=scorer == "attributes")
    if ":" not in scorer:
        raise ConfigError(
            f"there is no scorer {scorer!r}; write openai, lexical, attributes, content, "
            "content+popularity or MODULE:NAME."
        )
    found = load_scorer(scorer)
    return scorer if by_name else found


def _take(waiting: deque[tuple[ScoringRequest, Future[ScoredAnswer]]]) -> tuple[ScoringRequest, ScoredAnswer]:
    request, future = waiting.popleft()
    return request, future.result()


def _key(request: ScoringRequest, name: str) -> str:
    # A user's own scorer may look at ids, so they are part of the question; 1 and "1" are different ones.
    ids = [f"{type(value).__name__} {value!r}" for value in (request.user_id, *request.item_ids)]
    question = {"ids": ids, "history": request.history, "titles": request.titles, "repeat": request.repeat}
    return ledger_key([{"role": "own", "content": json.dumps(question)}], name, {}, SCHEMA_VERSION)


def _entry(key: str, request: ScoringRequest, answer: ScoredAnswer, name: str) -> LedgerAnswer:
    return LedgerAnswer(
        key=key,
        first_key=key,
        attempt=0,
        model=name,
        user_id=str(request.user_id),
        repeat=request.repeat,
        request={"n_candidates": len(request.item_ids), "schema_version": SCHEMA_VERSION},
        response="",
        scores=tuple(answer.scores.get(item) for item in request.item_ids),
        n_unasked=answer.n_unasked,
        n_duplicates=answer.n_duplicates,
    )


_REQUESTS = 200  # of a shard


def spread_scorer(
    scorer: Scorer | str, requests: Iterable[ScoringRequest], engine: Engine, *, verbose: bool = True
) -> Iterator[tuple[ScoringRequest, ScoredAnswer]]:
    """Score requests as `score_with` does, in the processes of an engine and without a ledger.

    Parameters
    ----------
    scorer : Scorer or str
        An object that is sent to every machine, or its name as `load_scorer` takes it: then each process makes its own,
        and nothing that the object holds leaves this one.
    requests : iterable of ScoringRequest
        Taken as they are needed.
    engine : Engine
    verbose : bool, default=True
        Show progress.

    Yields
    ------
    request : ScoringRequest
        In the order of `requests`.
    answer : ScoredAnswer

    Raises
    ------
    ScoringStoppedError, AnswerError
        As in `score_with`.
    EngineError
        If the engine fails.
    """
    total = len(requests) if isinstance(requests, Sized) else None
    with tqdm(total=total, unit=" requests", disable=not verbose, file=sys.stderr, dynamic_ncols=True) as bar:
        for shard, answers in engine.map(_score, scorer, _shards(iter(requests))):
            yield from zip(shard, answers, strict=True)
            bar.update(len(shard))


def _shards(requests: Iterator[ScoringRequest]) -> Iterator[list[ScoringRequest]]:
    while shard := list(itertools.islice(requests, _REQUESTS)):
        yield shard


def _score(scorer: Scorer | str, shard: list[ScoringRequest]) -> list[ScoredAnswer]:
    found = _load(scorer) if isinstance(scorer, str) else scorer
    return [score_one(found, request) for request in shard]


_load = functools.cache(load_scorer)


class LexicalScorer:
    """TF-IDF similarity of titles: the cosine between a candidate's title and the mean of the history's.

    A stand-in for a language model that needs no key, no network and no accelerator. It knows nothing but the
    letters of the titles: it finds the sequel, the same brand and the same platform, and no taste beyond that.

    Titles are cut into character n-grams (2 to 4 letters, within words), so that word forms and languages
    without spaces match too. A candidate without any n-gram in common with the history scores 0.

    Parameters
    ----------
    titles : iterable of str
        The titles of the whole catalogue: what is rare among them counts for more.
    words : bool, default=False
        Compare whole words, cut at white space, and not letters: for lists of attributes, where ``a1`` has nothing
        to do with ``a12``.

    Raises
    ------
    DataError
        If there is no title among them, or blank ones only.

    Examples
    --------
    >>> scorer = LexicalScorer(["Chess for Beginners", "Chess Endgames", "Rose Garden"])
    >>> request = ScoringRequest("ann", ("Chess for Beginners",), (2, 3), ("Chess Endgames", "Rose Garden"))
    >>> scores = scorer.score(request).scores
    >>> scores[2] > scores[3]
    True
    """

    def __init__(self, titles: Iterable[str], *, words: bool = False) -> None:
        # Takes a second to import, which those who ask a language model should not wait for.
        from sklearn.feature_extraction.text import TfidfVectorizer

        distinct = sorted({title for title in titles if title})
        units: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (2, 4)}
        if words:
            units = {"analyzer": "word", "token_pattern": r"\S+"}
        self._vectorizer = TfidfVectorizer(**units, sublinear_tf=True, dtype=np.float32)
        try:
            self._known = self._vectorizer.fit_transform(distinct)
        except ValueError:  # an empty vocabulary
            raise DataError(
                "the items have no titles to compare; give an items file with a title column that is filled in."
            ) from None
        self._row = {title: row for row, title in enumerate(distinct)}

    def score(self, request: ScoringRequest) -> ScoredAnswer:
        """Score the candidates of one request.

        Parameters
        ----------
        request : ScoringRequest
            Titles outside the catalogue are compared too.

        Returns
        -------
        ScoredAnswer
            Without a history there is nothing to compare with: every candidate is missing.
        """
        if not request.history or not request.titles:
            return ScoredAnswer({}, missing=request.item_ids)
        profile = self._vectors(request.history).sum(axis=0)  # (1, n_ngrams), dense
        length = float(np.linalg.norm(profile))
        if length == 0:
            return ScoredAnswer({}, missing=request.item_ids)
        cosine = np.asarray(self._vectors(request.titles) @ profile.T).ravel() / length  # (n_candidates,)
        # Rounding lifts the cosine of equal titles above 1.
        scores = np.clip(cosine, 0.0, 1.0).astype(float).tolist()
        return ScoredAnswer(dict(zip(request.item_ids, scores, strict=True)))

    def _vectors(self, titles: tuple[str, ...]) -> Any:
        """TF-IDF rows of titles, (n_titles, n_ngrams) sparse, each of length 1 or 0."""
        rows = [self._row.get(title) for title in titles]
        if None in rows:
            return self._vectorizer.transform(titles)
        return self._known[rows]
