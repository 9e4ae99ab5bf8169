"""`correct_reasons`: reasons written again in time order, of several the one that a model scores best."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, overload

import pandas as pd
from tqdm import tqdm

from ..datasets.interactions import Interactions
from ..errors import IncompleteWarning
from ..scores.origin import check_parquet_path, write_parquet
from ..settings import Bounds
from .asking import Asked, WrittenTable
from .corrections import (
    Corrected,
    Correction,
    CorrectionCounts,
    Corrections,
    Texts,
    corrected_frame,
    mean,
    plan_corrections,
)
from .ledger import Ledger
from .ledger_file import LedgerAnswer
from .prices import RunSummary, Spending
from .requests import TableLike, read_data
from .run import Estimate, estimate_run, run
from .settings import RequestSettings, ServerSettings, takes
from .text_questions import TextQuestions, TextTemplate
from .text_requests import Kind, TextRequest, read_attributes

_KINDS: tuple[Kind, ...] = ("reason", "update")


class Judge(Protocol):
    """What reasons are chosen by; `sllmr_plugin.ReasonRewards` is one. Ids are raw."""

    def rewards(self, user: Hashable, item: Hashable, reasons: Sequence[str]) -> Sequence[float]:
        """Return what each of some reasons about an interaction is worth, given all that was kept and updated."""
        ...

    def keep(self, user: Hashable, item: Hashable, reason: str) -> None:
        """Take note of the reason that an interaction has from now on."""
        ...

    def update(self, user: Hashable, pattern: str) -> None:
        """Take note of the pattern that a user has from now on."""
        ...


@dataclass(frozen=True, kw_only=True)
class CorrectSettings(RequestSettings):
    """Settings of `correct_reasons`, with those of `RequestSettings`.

    Parameters
    ----------
    n : int, default=4
        Reasons asked for an interaction.
    titles : int, default=10
        Titles of the user's last training interactions before it that a prompt shows.
    temperature : float or None, default=0.8
        Of the model; None leaves it to the server.
    max_tokens : int, "auto" or None, default="auto"
        Longest answer. None sets no limit; models that think before they answer need more than "auto".
    reason_template, update_template : path, optional
        Prompts of your own, text files with placeholders.
    shown_attributes : sequence of str, optional
        Columns of the items that are shown beside a title; by default ``category`` and ``categories``, where they are.
    max_words : int, default=120
        Longest text asked for.
    """

    n: Annotated[int, Bounds(least=1)] = 4
    titles: Annotated[int, Bounds(least=1)] = 10
    temperature: Annotated[float, Bounds(least=0)] | None = 0.8
    max_tokens: Annotated[int, Bounds(least=1)] | Literal["auto"] | None = "auto"
    reason_template: str | os.PathLike | None = None
    update_template: str | os.PathLike | None = None
    shown_attributes: tuple[str, ...] | None = None
    max_words: Annotated[int, Bounds(least=1)] = 120

    def problems(self) -> list[str]:
        """Return what does not go together."""
        if self.n > 1 and self.temperature == 0:
            return ["temperature=0 gives the same reason every time: take one above 0, or n=1"]
        return []

    def server(self) -> ServerSettings:
        """Return the server to ask."""
        return ServerSettings(self.model, self.base_url, self.timeout, "text")

    def questions(self) -> TextQuestions:
        """Return what to ask."""
        templates = {}
        for kind in _KINDS:
            path = getattr(self, f"{kind}_template")
            templates[kind] = (
                TextTemplate.from_file(Path(path), kind, max_words=self.max_words)
                if path
                else TextTemplate(kind, max_words=self.max_words)
            )
        asking = ("model", "temperature", "max_tokens", "attempts", "extra_body")
        return TextQuestions(templates=templates, **{name: getattr(self, name) for name in asking})


@dataclass(frozen=True, eq=False, repr=False)
class CorrectionResult(WrittenTable):
    """A text table with corrected reasons that is written, with the `CorrectionCounts`, and how it came about.

    Attributes are those of `WrittenTable`.
    """

    counts: CorrectionCounts
    name = "Text table"


@overload
def correct_reasons(
    interactions: Interactions | TableLike,
    items: TableLike,
    texts: Texts,
    judge: Judge,
    *,
    out: str | os.PathLike[str],
    dry_run: Literal[False] = ...,
    verbose: bool = ...,
    **settings: Any,
) -> CorrectionResult: ...


@overload
def correct_reasons(
    interactions: Interactions | TableLike,
    items: TableLike,
    texts: Texts,
    judge: Judge | None,
    *,
    out: str | os.PathLike[str],
    dry_run: bool,
    verbose: bool = ...,
    **settings: Any,
) -> CorrectionResult | Estimate: ...


@takes(CorrectSettings)
def correct_reasons(
    interactions: Interactions | TableLike,
    items: TableLike,
    texts: Texts,
    judge: Judge | None,
    *,
    out: str | os.PathLike[str],
    dry_run: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> CorrectionResult | Estimate:
    """Have reasons written again and keep those that a trained model scores best: ``sllmr correct`` in Python.

    The chronological correction of Luo et al. (KDD 2026), Sec. 4.4, as best-of-n: no language model is tuned. The
    training interactions that the table has a reason about are gone through in time order. Of each, `n` reasons are
    asked for; the one of the highest reward takes the place of the old one in the item's list; then the user's pattern
    is written again, from the pattern so far, the item and that reason. Rewards of later interactions see both.
    Interactions that share neither user nor item are asked about at the same time, which changes nothing.

    Every answer is committed to a ledger before it counts. Whatever ends the run, the same call goes on where it
    stopped and pays for no answer twice, as long as the judge is the same: choices are not stored, but made again.

    Parameters
    ----------
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`. Shown are titles of training interactions alone: those before the one in question.
    items : path or pandas.DataFrame
        The catalogue: ``item_id, title[, category]``.
    texts : TextTable
        With reasons and patterns, by the codes of the interactions.
    judge : ReasonRewards or another Judge
        Gives the rewards; not used, and may be None, in a dry run.
    out : path
        The corrected text table, ``.parquet``; replaced as a whole.
    dry_run : bool, default=False
        Send nothing, write nothing, and return what would be asked and cost. Updates of patterns are taken to be as
        long as with the texts of the table.
    verbose : bool, default=True
        Show a progress bar over interactions.
    **settings
        Fields of `CorrectSettings`, which are the flags of ``sllmr correct``: ``n``, ``model``, ``base_url``,
        ``max_cost`` and others.

    Returns
    -------
    CorrectionResult or Estimate
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
    chosen = CorrectSettings(**settings)
    used = (interactions, items, chosen.ledger, chosen.prices, chosen.reason_template, chosen.update_template)
    path = check_parquet_path(out, used)
    data = read_data(interactions, items)
    shown = read_attributes(items, chosen.shown_attributes)
    plan = plan_corrections(data, texts, n_titles=chosen.titles, attributes=shown)
    questions = chosen.questions()
    if dry_run:
        requests = _expected(plan, chosen.n)
        return estimate_run(requests, questions, chosen.ledger_beside(path), chosen.price(), show=2)
    assert judge is not None
    correcting = _Correcting(plan, judge, questions, chosen)
    with Ledger(chosen.ledger_beside(path)) as ledger:
        correcting.go_through(ledger, verbose=verbose)
        asked = Asked(correcting.summary, correcting.spending, ledger.path, chosen.price(), chosen.model)
    if asked.summary.stopped or asked.summary.unanswered or asked.summary.failed or asked.summary.refused:
        warnings.warn(
            "not every request was answered, so some texts are as they were; the summary says what to do.",
            IncompleteWarning,
            stacklevel=3,
        )
    frame, counts = corrected_frame(data, texts, plan, correcting.done), correcting.counts(len(texts.reasons))
    _write(frame, counts, path, chosen, questions, asked)
    return CorrectionResult(path, frame, counts, asked)


def _expected(plan: Corrections, n: int) -> list[TextRequest]:
    """Return the requests to be made, with the table's texts in updates; first one of each kind."""
    updates = [one.update(plan.patterns[one.user], one.reason) for one in plan.all if one.user in plan.patterns]
    samples = [request for one in plan.all for request in one.samples(n)]
    return [*samples[:1], *updates, *samples[1:]]


def _write(
    frame: pd.DataFrame,
    counts: CorrectionCounts,
    path: Path,
    chosen: CorrectSettings,
    questions: TextQuestions,
    asked: Asked,
) -> None:
    columns = None if chosen.shown_attributes is None else list(chosen.shown_attributes)
    told = {"n": chosen.n, "titles": chosen.titles, "attributes": columns, "max_words": chosen.max_words}
    origin = {
        "writer": "openai",
        "model": chosen.model,
        "kind": ",".join(frame["kind"].unique().tolist()),
        "prompt_hash": {kind: template.prompt_hash for kind, template in questions.templates.items()},
        "settings": told | questions.recorded(),
        "counts": {name: None if value != value else value for name, value in asdict(counts).items()},
        **asked.spending.recorded(),
    }
    write_parquet(frame, path, origin)


class _Correcting:
    """One run: what has been written, what is waited for, and what was spent."""

    def __init__(self, plan: Corrections, judge: Judge, questions: TextQuestions, chosen: CorrectSettings) -> None:
        self._plan, self._judge, self._questions, self._chosen = plan, judge, questions, chosen
        self.done, self.summary, self.spending = Corrected(), RunSummary(), Spending()
        self._patterns = dict(plan.patterns)
        self._updates: list[TextRequest] = []
        self._waiting: set[tuple[str, Hashable]] = set()  # users and items with a text that is not there yet
        self._failed = self._open = self._n_updates = 0
        self._before: list[float] = []
        self._drawn: list[float] = []

    def go_through(self, ledger: Ledger, *, verbose: bool) -> None:
        """Ask, choose and update, wave by wave; an update is asked together with the next wave's reasons."""
        bar = tqdm(total=len(self._plan.all), unit=" reasons", disable=not verbose, file=sys.stderr, dynamic_ncols=True)
        waves = self._plan.waves()
        with bar:
            for wave in [*waves, []]:
                if self.summary.stopped is None:
                    self._step(wave, ledger)
                else:
                    self._open += len(wave)
                bar.update(len(wave))
                bar.set_postfix_str(f"${self.summary.cost:.4f}", refresh=False)

    def _step(self, wave: Sequence[Correction], ledger: Ledger) -> None:
        updates, self._updates = self._updates, []
        free = [one for one in wave if not self._waiting & _keys(one)]
        samples = {one: one.samples(self._chosen.n) for one in free}
        requests = [*updates, *(request for asked in samples.values() for request in asked)]
        if requests:
            self._ask(requests, ledger)
        for update in updates:
            settled, text = self._read(update, ledger)
            if not settled:
                self._waiting.add(("user", update.id))
            elif text is not None:
                self._patterns[update.id] = self.done.patterns[update.id] = text
                self._n_updates += 1
                self._judge.update(update.id, text)
        for one in wave:
            answers = [self._read(sample, ledger) for sample in samples.get(one, ())]
            # A user whose pattern is waited for has no reward yet, though the reasons are there.
            if self._waiting & _keys(one) or not answers or not all(settled for settled, _ in answers):
                self._waiting |= _keys(one)
                self._open += 1
            else:
                self._choose(one, [text for _, text in answers if text is not None])

    def _ask(self, requests: list[TextRequest], ledger: Ledger) -> None:
        client = self._chosen.server().client()
        limits, price = self._chosen.limits(), self._chosen.price()
        summary = run(
            requests,
            self._questions,
            client,
            ledger,
            limits=limits,
            price=price,
            verbose=False,
            spending=self.spending,
        )
        _add(self.summary, summary)

    def _read(self, request: TextRequest, ledger: Ledger) -> tuple[bool, str | None]:
        """Return whether nothing more is to come of a request, and its text, None where it has none."""
        following, answer = self._questions.replay(request, ledger)
        if following is not None:
            return False, None
        usable = isinstance(answer, LedgerAnswer) and answer.ok
        return True, self._questions.text(answer, request) if usable else None  # type: ignore[arg-type]

    def _choose(self, one: Correction, reasons: list[str]) -> None:
        if not reasons:
            self._failed += 1
            return
        *rewards, before = self._judge.rewards(one.user, one.item, [*reasons, one.reason])
        best = max(range(len(reasons)), key=rewards.__getitem__)  # of equals the first
        self._judge.keep(one.user, one.item, reasons[best])
        self.done.reasons[one.row] = reasons[best], float(rewards[best])
        self._before.append(before)
        self._drawn.append(mean(rewards))
        if one.user in self._patterns:
            self._updates.append(one.update(self._patterns[one.user], reasons[best]))

    def counts(self, n_reasons: int) -> CorrectionCounts:
        """Return what became of a table's reasons."""
        planned, corrected = len(self._plan.all), len(self.done.reasons)
        rewards = [reward for _, reward in self.done.reasons.values()]
        return CorrectionCounts(
            reasons=n_reasons,
            planned=planned,
            corrected=corrected,
            failed=self._failed,
            open=self._open,
            untold=self._plan.n_untold,
            outside=n_reasons - planned - self._plan.n_untold,
            updated=self._n_updates,
            reward=mean(rewards),
            before=mean(self._before),
            drawn=mean(self._drawn),
        )


def _keys(one: Correction) -> set[tuple[str, Hashable]]:
    return {("user", one.user), ("item", one.item)}


def _add(total: RunSummary, part: RunSummary) -> None:
    """Add what came of some requests to what came of those before."""
    for field in fields(RunSummary):
        value, before = getattr(part, field.name), getattr(total, field.name)
        if field.name == "total_cost":
            total.total_cost = value
        elif isinstance(value, int | float):
            setattr(total, field.name, before + value)
        else:
            setattr(total, field.name, value or before)
