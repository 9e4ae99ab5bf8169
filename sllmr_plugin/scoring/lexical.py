"""A scorer without any language model: how alike the candidates' titles are to those of the history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import DataError
from .requests import ScoredAnswer, ScoringRequest


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
        # A second's work to import, that those who ask a language model should not wait for.
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
