"""Interactions that a language model writes: users of a closed list who would take a long-tail item."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd

from ..datasets.content import Content
from ..datasets.interactions import Interactions
from ..datasets.neighbours import NeighbourReport
from ..datasets.synthetic import (
    SyntheticInteractions,
    known_pairs,
    near_users,
    pair_keys,
    refuse_known,
    tail_items,
    titled,
)
from ..errors import AnswerError, CoverageError, DataError
from ..scores.ids import encode_pairs
from ..scores.origin import check_parquet_path, write_parquet
from ..scores.reading import read_table
from ..settings import Bounds
from .asking import Asked, WrittenTable
from .content import item_texts
from .draws import id_keys, mix
from .ledger_file import LedgerAnswer
from .requests import TableLike, read_data, training_titles
from .run import Estimate, ask, estimate_run
from .settings import AskSettings, takes
from .text_questions import TextQuestions, TextTemplate, parse_text
from .text_requests import TextRequest, attribute_reader, read_attributes

_NUMBER = re.compile(r"\W*(?:users?\W*)?([0-9]{1,6})\W*", re.IGNORECASE)
_NONE = frozenset({"none", "no user", "nobody", "no one"})


@dataclass(frozen=True)
class _TakersTemplate(TextTemplate):
    most: int = 3

    def answer_format(self) -> str:
        """Say in words how to answer."""
        return (
            'Answer with one JSON object and nothing else, of the form {"text": "user 3, user 7"}: at most '
            f'{self.most} users of the list, the likeliest first, or {{"text": "none"}} where none would take the item.'
        )


@dataclass(frozen=True)
class TakerQuestions(TextQuestions):
    """Asks which users of a list would take an item; an answer outside the list is asked again, as any unusable one."""

    def expected_completion(self, request: TextRequest) -> int:
        """Return 4 tokens a user."""
        return 10 + 4 * self._most

    def chosen(self, answer: LedgerAnswer, request: TextRequest) -> tuple[int, ...]:
        """Return the places on the request's list that a usable answer chooses, counted from 0, in its order."""
        return self._places(answer.response, request)

    @property
    def _most(self) -> int:
        template = self.templates["takers"]
        assert isinstance(template, _TakersTemplate)
        return template.most

    def text_of(self, answer: str, request: TextRequest) -> str:
        """Return an answer in one form, ``user 3, user 7`` or ``none``; raises `AnswerError` beside the list."""
        return ", ".join(f"user {place + 1}" for place in self._places(answer, request)) or "none"

    def _places(self, answer: str, request: TextRequest) -> tuple[int, ...]:
        text = parse_text(answer, self.templates["takers"].max_characters)
        if text.strip(" .").casefold() in _NONE:
            return ()
        found = []
        for part in filter(str.strip, re.split(r"[,;\n|]|\band\b", text)):
            match = _NUMBER.fullmatch(part)
            if match is None:
                raise AnswerError(f"{part.strip()!r} is not a number of the list. Write `user 3, user 7`, or none.")
            number = int(match[1])
            if not 1 <= number <= len(request.beside):
                raise AnswerError(
                    f"user {number} is not on the list. Choose from user 1 to user {len(request.beside)}."
                )
            found.append(number - 1)
        places = tuple(dict.fromkeys(found))
        if len(places) > self._most:
            raise AnswerError(f"the answer chooses {len(places)} users. Choose the {self._most} likeliest, or fewer.")
        return places


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings(AskSettings):
    """Settings of `synthesize_interactions`, with those of `AskSettings`.

    Parameters
    ----------
    from_scores : path, optional
        Ask nobody: take users from a score table, such as that of ``sllmr extend``, whose student has learnt from a
        language model.
    tail_quantile : float, default=0.2
        Share of the catalogue that is long-tail, by training interactions, ties included.
    most_items : int, optional
        So many of these items, drawn by the hash of their ids, so that more include the fewer; by default all.
    candidates : int, default=20
        Users on an item's list: those whose training histories are nearest to its text.
    per_item : int, default=3
        Users chosen for an item, at most.
    min_score : float, default=0.5
        With `from_scores`: lowest score of a user who is taken.
    texts : path, optional
        A text table whose descriptions of items are put behind their titles, to find near users by.
    attributes : sequence of str, optional
        Columns of the items that are shown beside a title; by default ``category`` and ``categories``, where they are.
    top : int, default=20
        Nearest items that count in the report of item-to-item neighbours.
    """

    from_scores: str | os.PathLike | None = None
    tail_quantile: Annotated[float, Bounds(above=0, most=1)] = 0.2
    most_items: Annotated[int, Bounds(least=1)] | None = None
    candidates: Annotated[int, Bounds(least=1)] = 20
    per_item: Annotated[int, Bounds(least=1)] = 3
    min_score: Annotated[float, Bounds(least=0, most=1)] = 0.5
    texts: str | os.PathLike | None = None
    attributes: tuple[str, ...] | None = None
    top: Annotated[int, Bounds(least=1)] = 20

    def questions(self) -> TakerQuestions:
        """Return what to ask."""
        template = _TakersTemplate("takers", max_words=max(20, 4 * self.per_item), most=self.per_item)
        return TakerQuestions(templates={"takers": template}, **self.asking())


@dataclass(frozen=True)
class SynthesisCounts:
    """What became of the long-tail items.

    Attributes
    ----------
    tail_items : int
        Long-tail items, of `items` in the catalogue.
    items : int
        The catalogue.
    listed : int
        Those with candidates: near users, or scored ones.
    answered : int
        Those that an answer came for; with scores, all listed.
    chosen : int
        Those that a user was chosen for.
    users, pairs : int
        Users who were chosen, and synthetic interactions.
    """

    tail_items: int
    items: int
    listed: int
    answered: int
    chosen: int
    users: int
    pairs: int

    def __str__(self) -> str:
        return (
            f"{self.pairs} synthetic interactions of {self.users} users with {self.chosen} of {self.tail_items} "
            f"long-tail items (catalogue: {self.items})\n"
            f"  {self.tail_items - self.listed} items without candidates, {self.listed - self.answered} without an "
            f"answer, {self.answered - self.chosen} for which nobody was chosen\n"
            "  none of them is a training, validation or test interaction (checked)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class SynthesisResult(WrittenTable):
    """Synthetic interactions that are written, with `SynthesisCounts`; attributes are those of `WrittenTable`.

    Attributes
    ----------
    neighbours : NeighbourReport
        Item-to-item similarities before and after.
    """

    counts: SynthesisCounts
    neighbours: NeighbourReport | None = None
    name = "Synthetic interactions"

    def __repr__(self) -> str:
        told = f"\n{self.neighbours}" if self.neighbours is not None else ""
        return f"{super().__repr__()}{told}\nnext: sllmr compare ... --modes none,synthetic --synthetic {self.path}"


@takes(SynthesisSettings)
def synthesize_interactions(
    interactions: Interactions | TableLike,
    items: TableLike | None = None,
    *,
    out: str | os.PathLike[str],
    dry_run: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> SynthesisResult | Estimate:
    """Have a language model choose users who would take long-tail items: ``sllmr synthesize`` in Python.

    A request is about one item and a list of users whose training histories are nearest to its text; the answer chooses
    from the list. One request an item, not one a user: the long tail is a share of the catalogue, and users are
    usually many more, so this direction asks less often. A user with a pair with the item in any split, training,
    validation or test, is on no list, and the pairs are checked once more before they are written. That keeps held-out
    items from becoming synthetic positives of their users, so what a comparison measures is, if anything, too low.

    Every answer is committed to a ledger before it counts, as by `write_texts`; the same call with the same ledger pays
    for no answer twice. With `from_scores` nobody is asked: the best-scored users of each long-tail item are taken.

    Parameters
    ----------
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`.
    items : path or pandas.DataFrame, optional
        The catalogue: ``item_id, title[, category]``. Needed to ask, not with `from_scores`.
    out : path
        ``user_id, item_id, weight, source, place, offered`` and, where a model was asked, ``similarity``, ``.parquet``;
        replaced as a whole. ``weight`` is 1 of what a model chose, else the score; ``place`` is that in the answer,
        or by score; ``offered`` says how many users were to choose from.
    dry_run : bool, default=False
        Send nothing, write nothing, and return what would be asked and cost.
    verbose : bool, default=True
        Show a progress bar.
    **settings
        Fields of `SynthesisSettings`, which are the flags of ``sllmr synthesize``.

    Returns
    -------
    SynthesisResult or Estimate
        The result; its ``repr`` says what was asked, chosen and spent, and what it does to item-to-item neighbours. An
        `Estimate` of a dry run.

    Raises
    ------
    ConfigError, DataError, CoverageError
        If files or settings cannot be used, there are no titles, or nothing was chosen.
    LeakageError
        If a pair is held out, which would be a bug.
    ServerError, ScoringStoppedError, PriceError, LedgerError
        If asking is not possible or stops. What was answered is in the ledger.

    Warns
    -----
    IncompleteWarning
        If not every request was answered.
    """
    chosen = SynthesisSettings(**settings)
    used = (interactions, items, chosen.from_scores, chosen.texts, chosen.ledger, chosen.prices)
    path = check_parquet_path(out, used)
    data = read_data(interactions, items)
    tail = _drawn(data, tail_items(data, chosen.tail_quantile), chosen.most_items)
    asked: Asked | None = None
    if chosen.from_scores is not None:
        if dry_run:
            return Estimate(len(tail), free="items from scores that are there, which cost nothing.")
        frame, n_listed = _from_scores(data, tail, chosen)
        n_answered = n_listed
        origin: dict[str, Any] = {"generator": f"scores of {os.path.basename(chosen.from_scores)}", "settings": {}}
    else:
        requests, users_of, near = _requests(data, items, tail, chosen)
        questions = chosen.questions()
        if dry_run:
            return estimate_run(requests, questions, chosen.ledger_beside(path), chosen.price())
        found: dict[Hashable, tuple[int, ...]] = {}

        def take(request: TextRequest, answer: LedgerAnswer) -> None:
            found[request.id] = questions.chosen(answer, request)

        asked = ask(requests, questions, chosen, path, take, verbose=verbose)
        rows = [
            (users_of[raw][place], raw, near[raw][place], number, len(users_of[raw]))
            for raw in users_of  # in the order of the requests, whatever that of the answers
            for number, place in enumerate(found.get(raw, ()), start=1)
        ]
        n_listed, n_answered = len(requests), len(found)
        if not rows:
            with asked.told_in_errors():
                raise DataError(
                    f"nobody was chosen for any of {n_listed} items ({n_answered} answered). Offer more users "
                    "(candidates), use another model, or look at sllmr ledger failures."
                )
        user, item, similarity, order, offered = zip(*rows, strict=True)
        frame = pd.DataFrame({"user": user, "item": data.item_index[list(item)].to_numpy(), "weight": 1.0})
        frame = frame.assign(source="llm", place=order, offered=offered, similarity=similarity)
        origin = {
            "generator": "llm",
            "model": chosen.model,
            "prompt_hash": questions.templates["takers"].prompt_hash,
            "settings": questions.recorded() | {"history_length": chosen.history_length},
        }
    codes = frame["user"].to_numpy(), frame["item"].to_numpy()
    refuse_known(data, *codes, source=str(path))
    pairs = SyntheticInteractions(*codes, frame["weight"].to_numpy(dtype=np.float32), str(path))
    counts = SynthesisCounts(
        tail_items=len(tail),
        items=data.n_items,
        listed=n_listed,
        answered=n_answered,
        chosen=frame["item"].nunique(),
        users=frame["user"].nunique(),
        pairs=len(frame),
    )
    raw_ids = {"user_id": data.user_ids[codes[0] - 1], "item_id": data.item_ids[codes[1] - 1]}
    table = pd.DataFrame(raw_ids).join(frame.drop(columns=["user", "item"]).reset_index(drop=True))
    report = NeighbourReport.of(data, pairs, tail, top=chosen.top)
    numbers = ("tail_quantile", "most_items", "candidates", "per_item", "min_score")
    origin["settings"] |= {name: getattr(chosen, name) for name in numbers}
    origin |= {"counts": asdict(counts), **(asked.spending.recorded() if asked is not None else {})}
    write_parquet(table, path, origin)
    return SynthesisResult(path, table, counts, asked, report)


def _drawn(data: Interactions, tail: np.ndarray, most: int | None) -> np.ndarray:
    """Return the items that are asked about, by the hash of their ids where not all are."""
    order = np.argsort(id_keys(data.item_ids[tail - 1], seed=0, purpose=14), kind="stable")
    return np.sort(tail[order[:most]])


def _requests(
    data: Interactions, items: TableLike | None, tail: np.ndarray, chosen: SynthesisSettings
) -> tuple[list[TextRequest], dict[Hashable, list[int]], dict[Hashable, list[float]]]:
    """Return a request an item, and the codes and similarities of the users on its list, by raw id."""
    if data.titles is None:
        raise DataError(
            "the items have no titles, so nobody can choose among them; give an items file with the columns item_id "
            "and title."
        )
    titles = data.titles.tolist()
    named = attribute_reader(None if items is None else read_attributes(items, chosen.attributes))
    content = Content.of(data, item_texts(data, chosen.texts))
    user_key = id_keys(data.user_ids, seed=0, purpose=15)
    item_key = id_keys(data.item_ids, seed=0, purpose=16)
    every = np.arange(1, data.n_users + 1)
    history = dict(zip(every.tolist(), training_titles(data, every, chosen.history_length), strict=True))
    requests, users_of, near_of = [], {}, {}
    for item, users, near in near_users(data, content, titled(titles, tail), chosen.candidates):
        # In an order that says nothing: models prefer what stands first.
        order = np.argsort(mix(user_key[users - 1] ^ item_key[item - 1]), kind="stable")
        listed = [(user, value) for user, value in zip(users[order].tolist(), near[order].tolist(), strict=True)]
        listed = [(user, value) for user, value in listed if history[user]]
        if not listed:
            continue
        raw = data.item_ids[[item - 1]].tolist()[0]
        beside = tuple(history[user] for user, _ in listed)
        requests.append(TextRequest("takers", raw, (titles[item - 1],), named(item), beside=beside))
        users_of[raw], near_of[raw] = [user for user, _ in listed], [value for _, value in listed]
    if not requests:
        raise CoverageError(
            f"no user is near to any of {len(tail)} long-tail items: their titles share no word with what users took. "
            "Give descriptions (texts), or take users from scores (from_scores)."
        )
    return requests, users_of, near_of


def _from_scores(data: Interactions, tail: np.ndarray, chosen: SynthesisSettings) -> tuple[pd.DataFrame, int]:
    """Return the best-scored users of each item, without pairs of any split, and how many items have scores."""
    assert chosen.from_scores is not None
    table = read_table(chosen.from_scores, "scores", numbers=("score",))
    table.require_columns(["user_id", "item_id", "score"])
    score = pd.to_numeric(table.frame["score"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    table.refuse((score < 0) | (score > 1), "score", "rescale the scores to [0, 1]")
    users, items = encode_pairs(table, data.user_index, data.item_index)
    usable = (users > 0) & np.isin(items, tail) & np.isfinite(score)
    usable &= ~np.isin(pair_keys(data, users, items), np.concatenate([*known_pairs(data).values()]))
    if not usable.any():
        raise CoverageError(
            f"{table.name}: none of its {len(score)} rows scores a user and one of {len(tail)} long-tail items that "
            "the user has no interaction with. Give a table of these users and items (sllmr extend), or raise "
            "tail_quantile."
        )
    frame = pd.DataFrame({"user": users[usable], "item": items[usable], "weight": score[usable]})
    frame = frame.drop_duplicates(["user", "item"])
    frame["offered"] = frame.groupby("item")["user"].transform("size")
    n_listed = frame["item"].nunique()
    best = frame["weight"].max()
    frame = frame[frame["weight"] >= max(chosen.min_score, np.nextafter(0, 1))]
    if frame.empty:
        raise DataError(
            f"{table.name}: no user of a long-tail item has a score of at least {chosen.min_score:g}; the highest is "
            f"{best:.4g}. Lower min_score (--min-score)."
        )
    key = mix(id_keys(data.user_ids, seed=0, purpose=15)[frame["user"] - 1])  # settles ties, whatever the file's order
    frame = frame.assign(key=key).sort_values(["item", "weight", "key"], ascending=[True, False, True])
    frame["place"] = frame.groupby("item").cumcount() + 1
    frame = frame[frame["place"] <= chosen.per_item].reset_index(drop=True)
    return frame.assign(source="scores")[["user", "item", "weight", "source", "place", "offered"]], n_listed
