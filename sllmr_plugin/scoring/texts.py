"""`write_texts`: interactions and catalogue in, text table out; ``sllmr texts`` in Python."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, overload

import pandas as pd

from ..datasets.interactions import Interactions
from ..errors import DataError
from ..scores.origin import check_parquet_path, write_parquet
from ..settings import Bounds
from .asking import Asked, WrittenTable
from .ledger_file import LedgerAnswer
from .prices import Spending
from .prompts import clean_title
from .requests import TableLike, read_data
from .run import Estimate, ask, estimate_run
from .settings import AskSettings, takes
from .text_questions import TextQuestions, TextTemplate
from .text_requests import (
    DEFAULT_KINDS,
    EXPLAINED_KINDS,
    KINDS,
    PROFILE_KINDS,
    Kind,
    TextRequest,
    TextRequests,
    plan_texts,
    read_attributes,
)

#: What the origin of such texts names in place of a model.
NO_MODEL = "no language model"


def write_titles(requests: Iterable[TextRequest]) -> Iterator[tuple[TextRequest, str]]:
    """Yield each request with what it would have shown a model: the titles of a history; title and attributes.

    Of kind reasoning that is all three, and no step of reasoning: what came of it, the item, the titles before it. Of
    kind reason, the item and the titles beside it, and no reason.

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
            beside = "after" if request.kind == "reasoning" else "beside"
            text = f"{came_of_it}: {item}; {beside}: {'; '.join(titles)}"
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
    patterns_asked, patterns, reasons_asked, reasons : int
        Requests for patterns of users and for reasons of interactions, and texts.
    untold_reasons : int
        Training positives that no reason could be asked of: no title, or no other titled item of their user.
    user_profiles_asked, user_profiles, item_profiles_asked, item_profiles : int
        Requests for profiles, and profiles.
    lonely_items : int
        Items left out: no profile of a user who took them, nor of one who took a similar item.
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
    patterns_asked: int = 0
    patterns: int = 0
    reasons_asked: int = 0
    reasons: int = 0
    untold_reasons: int = 0
    user_profiles_asked: int = 0
    user_profiles: int = 0
    item_profiles_asked: int = 0
    item_profiles: int = 0
    lonely_items: int = 0

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
        for name in ("patterns", "reasons", "user_profiles", "item_profiles"):
            if asked := getattr(self, f"{name}_asked"):
                lines.append(f"{name.replace('_', ' ')}: {getattr(self, name)} of {asked}")
        notes = {
            "users left out: no training interaction with a title": self.untitled_users,
            "items left out: no title": self.untitled_items,
            "training interactions that are not exemplars: no title, or none before them": self.untold_exemplars,
            "training interactions without a reason: no title, or none of another item": self.untold_reasons,
            "items without a profile: none of a user who took them, nor of a similar item": self.lonely_items,
        }
        return "\n".join(lines + [f"  {count} {what}" for what, count in notes.items() if count])


@dataclass(frozen=True, eq=False)
class WrittenTexts:
    """A text table that is not written to a file yet.

    Attributes
    ----------
    frame : pandas.DataFrame
        ``kind, id, text``, all text, users first: what `sllmr_plugin.TextTable.read` reads. With reasoning or reasons
        also ``item_id`` (text) and ``label`` (Int8), missing in other rows.
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
    n_taken = int(((frame["kind"] == "reasoning") & (frame["label"] == 1)).sum())
    if not set(EXPLAINED_KINDS) & set(n_of.index):
        frame = frame[["kind", "id", "text"]]
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
        patterns_asked=len(requests.patterns),
        patterns=int(n_of.get("pattern", 0)),
        reasons_asked=len(requests.reasons),
        reasons=int(n_of.get("reason", 0)),
        untold_reasons=requests.untold_reasons,
        user_profiles_asked=len(requests.user_profiles),
        user_profiles=int(n_of.get("user_profile", 0)),
        item_profiles_asked=len(requests.item_profiles),
        item_profiles=int(n_of.get("item_profile", 0)),
        lonely_items=requests.lonely_items,
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
    """Write the table as parquet, with its origin in the schema (see `read_metadata`).

    Parameters
    ----------
    written : WrittenTexts
        From `build_text_table`.
    path : path
        Ends in ``.parquet``; replaced as a whole.
    writer : str
        Who wrote, for instance ``"openai"`` or ``"titles"``.
    model : str
        The language model; `NO_MODEL` if there was none.
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


@dataclass(frozen=True, kw_only=True)
class TextSettings(AskSettings):
    """Settings of `write_texts`, with those of `AskSettings`.

    Parameters
    ----------
    kind : sequence of str, default=("user", "item")
        What to have texts about: users' preferences (``user``), facts on items (``item``), why a user took an item or
        did not (``reasoning``); the pattern in what a user takes, and why a user took an item (``pattern``,
        ``reason``); profiles of users, and of items from these (``user_profile``, ``item_profile``).
    users : int, optional
        Texts of so many users, of kinds user, pattern and user_profile; by default all.
    exemplars : int, default=1000
        With kind reasoning: about so many training interactions, and as many items that their users did not take.
    reasons_per_item : int, default=4
        With kind reason: about so many training interactions of each item, at most, which bounds the cost.
    neighbours : int, default=3
        With profiles: written from so many nearest users of a user, and users or similar items of an item, at most.
    profiles : path, optional
        With kind item_profile: the text table with the profiles of users, which are written first.
    writer : {"openai", "titles"}, default="openai"
        Any server with chat completions, or no model at all: titles and attributes in place of each text.
    user_template, item_template, reasoning_template, pattern_template, reason_template, user_profile_template, \
item_profile_template : path, optional
        Prompts of your own, text files with placeholders.
    attributes : sequence of str, optional
        Columns of the items that are shown beside a title; by default ``category`` and ``categories``, where they are.
    max_words : int, default=120
        Longest text asked for.
    """

    kind: tuple[str, ...] = DEFAULT_KINDS  # `plan_texts` says which there are
    users: Annotated[int, Bounds(least=1)] | None = None
    exemplars: Annotated[int, Bounds(least=1)] = 1000
    reasons_per_item: Annotated[int, Bounds(least=1)] = 4
    neighbours: Annotated[int, Bounds(least=1)] = 3
    profiles: str | os.PathLike | None = None
    writer: Literal["openai", "titles"] = "openai"
    user_template: str | os.PathLike | None = None
    item_template: str | os.PathLike | None = None
    reasoning_template: str | os.PathLike | None = None
    pattern_template: str | os.PathLike | None = None
    reason_template: str | os.PathLike | None = None
    user_profile_template: str | os.PathLike | None = None
    item_profile_template: str | os.PathLike | None = None
    attributes: tuple[str, ...] | None = None
    max_words: Annotated[int, Bounds(least=1)] = 120

    def questions(self) -> TextQuestions:
        """Return what to ask."""
        templates = {}
        for kind in KINDS:
            path = getattr(self, f"{kind}_template")
            templates[kind] = (
                TextTemplate.from_file(Path(path), kind, max_words=self.max_words)
                if path
                else TextTemplate(kind, max_words=self.max_words)
            )
        return TextQuestions(templates=templates, **self.asking())


@dataclass(frozen=True, eq=False, repr=False)
class TextResult(WrittenTable):
    """A text table that is written, with the `TextCounts` and the columns of `WrittenTexts`, and how it came about.

    Attributes are those of `WrittenTable`.
    """

    counts: TextCounts
    name = "Text table"

    def __repr__(self) -> str:
        if self.asked is not None or not (self.counts.exemplars_asked or self.counts.reasons_asked):
            return super().__repr__()
        told = "No language model reasoned: the texts about interactions are their labels, titles and attributes."
        return f"{super().__repr__()}\n{told}"


@overload
def write_texts(
    interactions: Interactions | TableLike,
    items: TableLike,
    *,
    out: str | os.PathLike[str],
    dry_run: Literal[False] = ...,
    verbose: bool = ...,
    **settings: Any,
) -> TextResult: ...


@overload
def write_texts(
    interactions: Interactions | TableLike,
    items: TableLike,
    *,
    out: str | os.PathLike[str],
    dry_run: bool,
    verbose: bool = ...,
    **settings: Any,
) -> TextResult | Estimate: ...


@takes(TextSettings)
def write_texts(
    interactions: Interactions | TableLike,
    items: TableLike,
    *,
    out: str | os.PathLike[str],
    dry_run: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> TextResult | Estimate:
    """Have users, items and interactions described and write the text table: ``sllmr texts`` in Python.

    Every answer is committed to a ledger before it counts. Whatever ends the run, the same call goes on where it
    stopped and pays for no answer twice; more users, exemplars, reasons or kinds pay only for the new ones.

    Parameters
    ----------
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`. Shown are titles of training interactions alone.
    items : path or pandas.DataFrame
        The catalogue: ``item_id, title[, category]``.
    out : path
        The text table, ``.parquet``; replaced as a whole.
    dry_run : bool, default=False
        Send nothing, write nothing, and return what would be asked and cost.
    verbose : bool, default=True
        Show a progress bar.
    **settings
        Fields of `TextSettings`, which are the flags of ``sllmr texts``: ``kind``, ``users``, ``model``, ``base_url``,
        ``max_cost`` and others.

    Returns
    -------
    TextResult or Estimate
        The result; its ``repr`` says what was asked, written and spent. An `Estimate` of a dry run.

    Raises
    ------
    DataError, ConfigError, PromptError
        If files or settings cannot be used; nothing has been asked then.
    ServerError, ScoringStoppedError, PriceError, LedgerError
        If asking is not possible or stops. What was answered is in the ledger.
    KeyboardInterrupt
        After Ctrl-C, when the requests in flight have been answered.

    Warns
    -----
    IncompleteWarning
        If not every request was answered.
    """
    chosen = TextSettings(**settings)
    templates = (getattr(chosen, f"{kind}_template") for kind in KINDS)
    path = check_parquet_path(out, (interactions, items, chosen.ledger, chosen.prices, chosen.profiles, *templates))
    requests = plan_texts(
        read_data(interactions, items),
        cast("tuple[Kind, ...]", chosen.kind),
        users=chosen.users,
        exemplars=chosen.exemplars,
        reasons_per_item=chosen.reasons_per_item,
        history_length=chosen.history_length,
        attributes=read_attributes(items, chosen.attributes),
        neighbours=chosen.neighbours,
        profiles=None if chosen.profiles is None else Path(chosen.profiles),
    )
    if chosen.writer == "titles":
        if dry_run:
            return Estimate(len(requests), free="texts from titles, which cost nothing.")
        written = build_text_table(requests, write_titles(requests))
        return _written(written, path, chosen, {}, model=NO_MODEL)
    questions = chosen.questions()
    if dry_run:
        show = max(2, len(chosen.kind))
        return estimate_run(requests, questions, chosen.ledger_beside(path), chosen.price(), show=show)
    texts: list[tuple[TextRequest, str]] = []

    def take(request: TextRequest, answer: LedgerAnswer) -> None:
        texts.append((request, questions.text(answer, request)))

    asked = ask(requests, questions, chosen, path, take, verbose=verbose)
    with asked.told_in_errors():
        written = build_text_table(requests, texts)
    settings_said = questions.recorded() | {"max_words": chosen.max_words}
    prompt_hash = {kind: template.prompt_hash for kind, template in questions.templates.items()}
    return _written(written, path, chosen, settings_said, asked, model=chosen.model, prompt_hash=prompt_hash)


def _written(
    written: WrittenTexts,
    path: Path,
    chosen: TextSettings,
    settings: dict[str, Any],
    asked: Asked | None = None,
    **origin: Any,
) -> TextResult:
    """Write the table with its origin."""
    columns = None if chosen.attributes is None else list(chosen.attributes)
    settings = {"history_length": chosen.history_length, "attributes": columns, **settings}
    if "reasoning" in chosen.kind:
        settings["exemplars"] = chosen.exemplars
    if "reason" in chosen.kind:
        settings["reasons_per_item"] = chosen.reasons_per_item
    if set(PROFILE_KINDS) & set(chosen.kind):
        settings["neighbours"] = chosen.neighbours
    spending = None if asked is None else asked.spending
    write_text_table(written, path, writer=chosen.writer, settings=settings, spending=spending, **origin)
    return TextResult(path, written.frame, written.counts, asked)
