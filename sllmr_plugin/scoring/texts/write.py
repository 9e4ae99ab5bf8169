"""`write_texts`: interactions and catalogue in, text table out; ``sllmr texts`` in Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, overload

from ...datasets.interactions import Interactions
from ...errors import DataError
from ...scores.origin import check_parquet_path
from ...settings import Bounds
from ..asking import Asked, WrittenTable
from ..ledger_file import LedgerAnswer
from ..requests import TableLike, read_data
from ..run import Estimate, ask, estimate_run
from ..settings import AskSettings, recorded_extra_body, takes
from .plan import DEFAULT_KINDS, KINDS, Kind, TextRequest, plan_texts, read_attributes
from .prompts import TextTemplate
from .questions import TextQuestions
from .table import NO_MODEL, TextCounts, WrittenTexts, build_text_table, write_text_table, write_titles


@dataclass(frozen=True, kw_only=True)
class TextSettings(AskSettings):
    """What `write_texts` can be told besides its files; and all of `AskSettings`.

    Parameters
    ----------
    kind : sequence of {"user", "item", "reasoning"}, default=("user", "item")
        What to have texts about: users' preferences, facts on items, why a user took an item or did not.
    users : int, optional
        Texts of so many users; by default all.
    exemplars : int, default=1000
        With kind reasoning: about so many training interactions, and as many items that their users did not take.
    writer : {"openai", "titles"}, default="openai"
        Any server with chat completions, or no model at all: titles and attributes in the place of each text.
    user_template, item_template, reasoning_template : path, optional
        Prompts of your own, text files with placeholders.
    attributes : sequence of str, optional
        Columns of the items that are shown beside a title; by default ``category`` and ``categories``, where they are.
    max_words : int, default=120
        Longest text asked for.
    """

    kind: tuple[str, ...] = DEFAULT_KINDS  # `plan_texts` says which there are
    users: Annotated[int, Bounds(least=1)] | None = None
    exemplars: Annotated[int, Bounds(least=1)] = 1000
    writer: Literal["openai", "titles"] = "openai"
    user_template: str | os.PathLike | None = None
    item_template: str | os.PathLike | None = None
    reasoning_template: str | os.PathLike | None = None
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
        if self.asked is not None or not self.counts.exemplars_asked:
            return super().__repr__()
        told = "No language model reasoned: the texts of exemplars are their labels, titles and attributes."
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
    stopped and pays for no answer twice; more users, exemplars or kinds pay only for the new ones.

    Parameters
    ----------
    interactions : path, pandas.DataFrame or Interactions
        As of `load_interactions`. Shown are titles of training interactions alone.
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
    used = (interactions, items, chosen.ledger, chosen.prices, *(getattr(chosen, f"{kind}_template") for kind in KINDS))
    path = check_parquet_path(out, (one for one in used if isinstance(one, str | os.PathLike)))
    requests = plan_texts(
        read_data(interactions, items),
        cast("tuple[Kind, ...]", chosen.kind),
        users=chosen.users,
        exemplars=chosen.exemplars,
        history_length=chosen.history_length,
        attributes=read_attributes(items, chosen.attributes),
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
    try:
        written = build_text_table(requests, texts)
    except DataError as error:
        raise DataError(f"{error}\n{asked}") from None
    settings_said = {
        "temperature": questions.temperature,
        "attempts": questions.attempts,
        "max_words": chosen.max_words,
        **recorded_extra_body(questions),
    }
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
    spending = None if asked is None else asked.spending
    write_text_table(written, path, writer=chosen.writer, settings=settings, spending=spending, **origin)
    return TextResult(path, written.frame, written.counts, asked)
