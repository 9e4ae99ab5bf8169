"""A run: `run` asks what the ledger has no answer to, `estimate` counts that; `score_candidates`: tables in and out."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from ..datasets.interactions import Interactions
from ..errors import IncompleteWarning
from ..parallel.engine import RayEngine
from ..scores.origin import check_parquet_path
from .asking import Asked, Client, ServerAsker, Tally, WrittenTable, check_can_run, settle
from .batch import run_batches
from .content import CONTENT, ContentScorer, item_texts
from .ledger import Ledger, take_over
from .ledger_file import Completions, LedgerAnswer, LedgerReader, Refusal
from .limits import CircuitBreaker
from .prices import Price, RunLimits, RunSummary, Spending, estimate_tokens
from .questions import Answers, Conversation, R
from .ray import run_on_ray
from .requests import ScoredAnswer, ScoringRequest, ScoringRequests, TableLike, plan_requests, read_data
from .runner import Runner
from .scorers import find_scorer, score_with, spread_scorer
from .settings import AskSettings, ScoreSettings, logger, opened_engine, takes
from .table import ScoreTableBuilder, ScoringCounts, build_score_table, write_score_table


def run(
    requests: Iterable[R],
    questions: Conversation[R],
    client: Client,
    ledger: Ledger,
    *,
    limits: RunLimits | None = None,
    price: Price | None = None,
    breaker: CircuitBreaker | None = None,
    verbose: bool = True,
    take: Callable[[R, LedgerAnswer], None] | None = None,
    spending: Spending | None = None,
) -> RunSummary:
    """Ask a server about all requests; the answers are in the ledger afterwards.

    Answers that the workers of a killed `run_on_ray` have left on this machine are taken into the ledger first.
    Requests are taken from the iterable as they are needed, so memory does not grow with their number. The
    first request goes alone: a wrong key or address costs one request. Ctrl-C stops after the requests in flight; a
    second one drops them.

    Parameters
    ----------
    requests : iterable of Request or TextRequest
        With a length, if the progress bar is to show the time left.
    questions : Questions or TextQuestions
        What to ask, and how to read the answers.
    client : Client
        Whom to ask; closed at the end.
    ledger : Ledger
        Answers there are not asked for again.
    limits : RunLimits, optional
        Concurrency, pace, retries, cost.
    price : Price, optional
        Without it costs count as nothing.
    breaker : CircuitBreaker, optional
        When to stop because nothing works.
    verbose : bool, default=True
        Show progress.
    take : callable, optional
        Called with every request that has a usable answer, and that answer, once it is committed.
    spending : Spending, optional
        Gets every answer to these requests, earlier and unusable ones included.

    Returns
    -------
    RunSummary

    Raises
    ------
    ScoringStoppedError
        If nothing works any more (bad key, no quota, server away), or a batch of `run_batches` is still open. What
        was answered is in the ledger.
    LedgerError
        If the ledger cannot be written. Nothing more is asked then.
    PriceError
        If `limits` caps the cost and there is no price.
    KeyboardInterrupt
        After Ctrl-C, when the requests in flight have been answered.
    """
    limits = limits or RunLimits()
    check_can_run(questions, ledger, limits, price)
    take_over(ledger)
    asker, tally = ServerAsker(client, questions, price), Tally(questions, ledger, take, spending)
    breaker = breaker or CircuitBreaker()
    return settle(Runner(requests, questions, asker, ledger, limits, price, breaker, verbose, tally))


def ask(
    requests: Iterable[R],
    questions: Conversation[R],
    settings: AskSettings,
    out: Path,
    take: Callable[[R, LedgerAnswer], None],
    *,
    engine: RayEngine | None = None,
    verbose: bool = True,
) -> Asked:
    """Ask a server as settings say: one request at a time, in batches, or through the workers of an engine.

    Parameters
    ----------
    requests, questions, take, verbose
        As in `run`.
    settings : AskSettings
    out : pathlib.Path
        The table that is to be written; the ledger is beside it unless the settings name one.
    engine : RayEngine or None, default=None
        None asks from this process.

    Raises
    ------
    ScoringStoppedError, LedgerError, PriceError, KeyboardInterrupt
        As in `run`.
    ServerError
        If there is no key.

    Warns
    -----
    IncompleteWarning
        If not every request was answered.
    """
    price, spending = settings.price(), Spending()
    server = settings.server(questions.form)
    # A missing key is reported before anything is touched; on Ray the workers' own keys count.
    client = server.client() if engine is None else None
    shared: dict[str, Any] = {
        "limits": settings.limits(),
        "price": price,
        "verbose": verbose,
        "take": take,
        "spending": spending,
    }
    with Ledger(settings.ledger_beside(out)) as ledger:
        if client is None:
            assert engine is not None
            summary = run_on_ray(requests, questions, server, ledger, engine, **shared)
        elif settings.batch:
            summary = run_batches(requests, questions, client, ledger, **shared)
        else:
            summary = run(requests, questions, client, ledger, **shared)
        path = ledger.path
    if summary.stopped or summary.unanswered or summary.failed or summary.refused:
        refused = f", {summary.refused} refused by the server" if summary.refused else ""
        warnings.warn(
            f"not every request was answered{refused}, so the table lacks some; the summary says what to do.",
            IncompleteWarning,
            stacklevel=3,
        )
    return Asked(summary, spending, path, price, settings.model)


@dataclass(frozen=True)
class Estimate:
    """What a run would ask.

    Attributes
    ----------
    requests, known : int
        All requests, and those of them that the ledger has answers to.
    refused : int
        Requests that the server has refused for good, and that are not asked again.
    prompt_tokens, completion_tokens : int
        Of the requests to be asked, if every first answer can be used.
    cost : float or None
        USD for these tokens; None if the price is not known.
    first : list of list of dict
        The messages of the first requests.
    assumed : str
        What the length of an answer is taken to be.
    free : str
        What is done in place of asking, where no model is asked.
    """

    requests: int
    known: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    first: list[list[dict[str, str]]] = field(default_factory=list, repr=False)
    assumed: str = ""
    free: str = ""

    def __str__(self) -> str:
        if self.free:
            return f"{self.requests} {self.free}"
        lines = []
        for number, messages in enumerate(self.first, start=1):
            lines.append(f"--- prompt {number} ---")
            lines += [f"[{message['role']}]\n{message['content']}\n" for message in messages]
        money = (
            "the price of this model is not known (see --prices)" if self.cost is None else f"about ${self.cost:.4f}"
        )
        refused = f", {self.refused} refused by the server" if self.refused else ""
        lines.append(
            f"{self.requests} requests, {self.known} of them answered in the ledger{refused}; to be asked: "
            f"{self.requests - self.known - self.refused}\nabout {self.prompt_tokens} prompt tokens and "
            f"{self.completion_tokens} completion tokens: {money}\n(tokens are guessed from characters; "
            f"{self.assumed}; answers that have to be asked for again are not included. Nothing was sent.)"
        )
        return "\n".join(lines)


def estimate(
    requests: Iterable[R],
    questions: Conversation[R],
    ledger: Answers | None,
    price: Price | None,
    *,
    show: int = 2,
) -> Estimate:
    """Count what a run would ask.

    Parameters
    ----------
    requests : iterable of ScoringRequest or TextRequest
        What the run would be about.
    questions : Questions or TextQuestions
        As in the run.
    ledger : Ledger, LedgerReader or None
        What is there already.
    price : Price or None
        Of the model.
    show : int, default=2
        How many prompts to keep for display.
    """
    n_requests = known = refused = prompt_tokens = completion_tokens = 0
    first: list[list[dict[str, str]]] = []
    written = None if ledger is None else ledger.completions(questions.model)
    unlimited = False
    for request in requests:
        n_requests += 1
        question, last = (questions.first(request), None) if ledger is None else questions.replay(request, ledger)
        if len(first) < show:
            first.append(questions.messages(request))
        if isinstance(last, Refusal):
            refused += 1
        elif question is None:
            known += 1
        else:
            prompt_tokens += estimate_tokens(question.messages)
            expected = questions.expected_completion(request)
            if question.parameters["max_tokens"] is None:
                unlimited = True
                expected = round(written.mean) if written is not None and written.number else expected
            completion_tokens += expected
    cost = price.cost(prompt_tokens, completion_tokens) if price else None
    assumed = _assumed(unlimited, written)
    return Estimate(n_requests, known, refused, prompt_tokens, completion_tokens, cost, first, assumed)


def estimate_run(
    requests: Iterable[R], questions: Conversation[R], ledger: Path, price: Price | None, *, show: int = 2
) -> Estimate:
    """Count what a run with a ledger's file would ask; it need not exist, and is not made. See `estimate`."""
    if not ledger.exists():
        return estimate(requests, questions, None, price, show=show)
    with LedgerReader(ledger) as reader:
        return estimate(requests, questions, reader, price, show=show)


def _assumed(unlimited: bool, written: Completions | None) -> str:
    if not unlimited:
        return "an answer is taken to be as long as one that keeps to the form"
    if written is None or not written.number:
        return (
            "an answer is taken to be as long as one that keeps to the form and nothing else. There is no limit "
            "(--max-tokens none), and a model that thinks before it answers writes many times as much: ask about few "
            "first, then this counts from what they had"
        )
    return (
        f"an answer is taken to have {written.mean:.0f} tokens, the mean of the {written.number} without a limit in "
        f"the ledger, of which the longest has {written.longest}"
    )


@dataclass(frozen=True, eq=False, repr=False)
class ScoringResult(WrittenTable):
    """A score table that is written, with the `ScoringCounts` and the columns of `ScoredPairs`, and how it came about.

    Attributes are those of `WrittenTable`.
    """

    counts: ScoringCounts
    name = "Score table"

    @property
    def probe_auc(self) -> float | None:
        """Chance that a probe is scored above one of its user's candidates; None without probes."""
        return self.counts.probe_auc


@overload
def score_candidates(
    candidates: TableLike,
    interactions: Interactions | TableLike,
    items: TableLike | None = ...,
    *,
    out: str | os.PathLike[str],
    dry_run: Literal[False] = ...,
    verbose: bool = ...,
    **settings: Any,
) -> ScoringResult: ...


@overload
def score_candidates(
    candidates: TableLike,
    interactions: Interactions | TableLike,
    items: TableLike | None = ...,
    *,
    out: str | os.PathLike[str],
    dry_run: bool,
    verbose: bool = ...,
    **settings: Any,
) -> ScoringResult | Estimate: ...


@takes(ScoreSettings)
def score_candidates(
    candidates: TableLike,
    interactions: Interactions | TableLike,
    items: TableLike | None = None,
    *,
    out: str | os.PathLike[str],
    dry_run: bool = False,
    verbose: bool = True,
    **settings: Any,
) -> ScoringResult | Estimate:
    """Have candidates scored and write the score table: ``sllmr score`` in Python, also in a notebook.

    Every answer is committed to a ledger before it counts. Whatever ends the run, the same call goes on where it
    stopped and pays for no answer twice.

    Parameters
    ----------
    candidates : path or pandas.DataFrame
        From `draw_candidates`, or of your own: ``user_id, item_id[, kind]``.
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`.
    items : path or pandas.DataFrame
        The catalogue: ``item_id, title``. Not needed if the interactions are loaded already.
    out : path
        The score table, ``.parquet``; replaced as a whole.
    dry_run : bool, default=False
        Send nothing, write nothing, and return what would be asked and cost.
    verbose : bool, default=True
        Show a progress bar.
    **settings
        Fields of `ScoreSettings`, which are the flags of ``sllmr score``: ``scorer``, ``model``, ``base_url``,
        ``max_cost``, ``repeats`` and others.

    Returns
    -------
    ScoringResult or Estimate
        The result; its ``repr`` says what was asked, scored and spent. An `Estimate` of a dry run.

    Raises
    ------
    DataError, ConfigError, PromptError
        If files or settings cannot be used; nothing has been asked then.
    ServerError, ScoringStoppedError, PriceError, LedgerError, EngineError
        If asking is not possible or stops. What was answered is in the ledger.
    ScoreTableError
        If nothing was scored.
    KeyboardInterrupt
        After Ctrl-C, when the requests in flight have been answered.

    Warns
    -----
    IncompleteWarning
        If not every request was answered.
    OrderEchoWarning
        If the scores follow the order in which the prompts showed the candidates.

    Examples
    --------
    >>> import tempfile
    >>> from sllmr_plugin.datasets.demo import demo_paths
    >>> from sllmr_plugin.scoring import draw_candidates, score_candidates
    >>> data = demo_paths().interactions, demo_paths().items
    >>> drawn = draw_candidates(*data, users=40)
    >>> out = tempfile.mkdtemp() + "/scores.parquet"
    >>> result = score_candidates(drawn.frame, *data, out=out, scorer="lexical", verbose=False)
    >>> result.counts.requests, len(result.table) == len(drawn.frame)
    (40, True)
    """
    chosen = ScoreSettings(**settings)
    path = check_parquet_path(
        out, (candidates, interactions, items, chosen.texts, chosen.ledger, chosen.template, chosen.prices)
    )
    data = read_data(interactions, items, titles_from="attributes" if chosen.scorer == "attributes" else "title")
    requests = plan_requests(
        candidates,
        data,
        history_length=chosen.history_length,
        repeats=chosen.repeats,
        seed=chosen.seed,
        one_by_one=chosen.answer == "yes_no",
    )
    if chosen.scorer != "openai":
        return _score_with_object(requests, data, chosen, path, dry_run=dry_run, verbose=verbose)
    questions = chosen.questions()
    if dry_run:
        return estimate_run(requests, questions, chosen.ledger_beside(path), chosen.price())
    origin: dict[str, Any] = {
        "model": chosen.model,
        "prompt_hash": questions.template.prompt_hash,
        "settings": _recorded(chosen) | questions.recorded(),
    }
    builder = ScoreTableBuilder(requests, chosen.missing)

    def take(request: ScoringRequest, answer: LedgerAnswer) -> None:
        builder.add(request, questions.scored(answer, request))

    with opened_engine(chosen.engine, chosen.workers) as engine:
        asked = ask(requests, questions, chosen, path, take, engine=engine, verbose=verbose)
    with asked.told_in_errors():
        scored = builder.finish()
    write_score_table(scored, path, scorer="openai", spending=asked.spending, **origin)
    return ScoringResult(path, scored.frame, scored.counts, asked)


def _score_with_object(
    requests: ScoringRequests, data: Interactions, chosen: ScoreSettings, path: Path, *, dry_run: bool, verbose: bool
) -> ScoringResult | Estimate:
    name = chosen.scorer_name
    if dry_run:
        return Estimate(len(requests), free=f"requests to {name}, which cost nothing that is known here.")
    with opened_engine(chosen.engine, chosen.workers) as engine:
        scorer = _scorer(chosen, data, by_name=engine is not None)
        answers: Iterable[tuple[ScoringRequest, ScoredAnswer]]
        if engine is not None:
            answers = spread_scorer(scorer, requests, engine, verbose=verbose)
            scored = build_score_table(requests, answers, missing=chosen.missing)
        else:
            # An object of the user's own may change while its name stays, so there is a ledger only on request.
            with contextlib.ExitStack() as stack:
                ledger = stack.enter_context(Ledger(chosen.ledger)) if chosen.ledger else None
                answers = score_with(scorer, requests, name=name, ledger=ledger, verbose=verbose)
                scored = build_score_table(requests, answers, missing=chosen.missing)
    settings = _recorded(chosen)
    if isinstance(scorer, ContentScorer):
        settings |= {"texts": chosen.texts and Path(chosen.texts).name, "popularity_weights": list(scorer.weights)}
    write_score_table(scored, path, scorer=name, settings=settings)
    return ScoringResult(path, scored.frame, scored.counts)


def _scorer(chosen: ScoreSettings, data: Interactions, *, by_name: bool) -> Any:
    if not chosen.scores_content:
        return find_scorer(chosen.scorer, data.titles, by_name=by_name)
    weight = 0.0 if chosen.scorer == CONTENT else chosen.popularity_weight
    scorer = ContentScorer(data, item_texts(data, chosen.texts), popularity_weight=weight, seed=chosen.seed)
    if chosen.scorer != CONTENT:
        logger.info("weight of popularity: %g and %g, for users of even and odd codes", *scorer.weights)
    return scorer


def _recorded(chosen: ScoreSettings) -> dict[str, Any]:
    """Return what decided the scores of any scorer."""
    return {name: getattr(chosen, name) for name in ("history_length", "repeats", "seed", "missing")}
