"""`run`: ask a server what the ledger has no answer to; `score_candidates`: candidates in, score table out."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from ..datasets.interactions import Interactions
from ..errors import IncompleteWarning, ScoreTableError
from ..parallel.engine import RayEngine
from ..scores.origin import check_parquet_path
from .asking import Asked, Client, ServerAsker, Tally, WrittenTable, check_can_run, settle
from .batch import run_batches
from .dry_run import Estimate, estimate_run
from .ledger import Ledger, take_over
from .ledger_file import LedgerAnswer
from .limits import CircuitBreaker
from .own import find_scorer, score_with, spread_scorer
from .prices import Price, RunLimits, RunSummary, Spending
from .questions import Conversation, R
from .ray import run_on_ray
from .requests import ScoredAnswer, ScoringRequest, ScoringRequests, TableLike, plan_requests, read_data
from .runner import Runner
from .settings import AskSettings, ScoreSettings, opened_engine, recorded_extra_body, takes
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
        As of `run`.
    settings : AskSettings
    out : pathlib.Path
        The table that is to be written; the ledger is beside it unless the settings name one.
    engine : RayEngine or None, default=None
        None asks from this process.

    Raises
    ------
    ScoringStoppedError, LedgerError, PriceError, KeyboardInterrupt
        As of `run`.
    ServerError
        If there is no key.

    Warns
    -----
    IncompleteWarning
        If not every request was answered.
    """
    price, spending = settings.price(), Spending()
    server = settings.server(questions.form)
    # A missing key is told of before anything is touched; on Ray it is the workers' own that counts.
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
        As of `load_interactions`.
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
    used = (candidates, interactions, items, chosen.ledger, chosen.template, chosen.prices)
    path = check_parquet_path(out, (one for one in used if isinstance(one, str | os.PathLike)))
    data = read_data(interactions, items, titles_from="attributes" if chosen.scorer == "attributes" else "title")
    requests = plan_requests(
        candidates, data, history_length=chosen.history_length, repeats=chosen.repeats, seed=chosen.seed
    )
    if chosen.scorer != "openai":
        return _score_with_object(requests, data, chosen, path, dry_run=dry_run, verbose=verbose)
    questions = chosen.questions()
    if dry_run:
        return estimate_run(requests, questions, chosen.ledger_beside(path), chosen.price())
    origin: dict[str, Any] = {
        "model": chosen.model,
        "prompt_hash": questions.template.prompt_hash,
        "settings": _recorded(chosen)
        | {
            "temperature": questions.temperature,
            "top_logprobs": questions.top_logprobs,
            "answer": chosen.answer,
            "ranking_temperature": questions.ranking_temperature if chosen.answer == "ranking" else None,
            "attempts": questions.attempts,
            **recorded_extra_body(questions),
        },
    }
    builder = ScoreTableBuilder(requests, chosen.missing)

    def take(request: ScoringRequest, answer: LedgerAnswer) -> None:
        builder.add(request, questions.scored(answer, request))

    with opened_engine(chosen.engine, chosen.workers) as engine:
        asked = ask(requests, questions, chosen, path, take, engine=engine, verbose=verbose)
    try:
        scored = builder.finish()
    except ScoreTableError as error:
        raise ScoreTableError(f"{error}\n{asked}") from None
    write_score_table(scored, path, scorer="openai", spending=asked.spending, **origin)
    return ScoringResult(path, scored.frame, scored.counts, asked)


def _score_with_object(
    requests: ScoringRequests, data: Interactions, chosen: ScoreSettings, path: Path, *, dry_run: bool, verbose: bool
) -> ScoringResult | Estimate:
    name = chosen.scorer_name
    if dry_run:
        return Estimate(len(requests), free=f"requests to {name}, which cost nothing that is known here.")
    with opened_engine(chosen.engine, chosen.workers) as engine:
        scorer = find_scorer(chosen.scorer, data.titles, by_name=engine is not None)
        answers: Iterable[tuple[ScoringRequest, ScoredAnswer]]
        if engine is not None:
            answers = spread_scorer(scorer, requests, engine, verbose=verbose)
            scored = build_score_table(requests, answers, missing=chosen.missing)
        else:
            # An object of the user's own may change while its name stays, so only who asks for a ledger gets one.
            with contextlib.ExitStack() as stack:
                ledger = stack.enter_context(Ledger(chosen.ledger)) if chosen.ledger else None
                answers = score_with(scorer, requests, name=name, ledger=ledger, verbose=verbose)
                scored = build_score_table(requests, answers, missing=chosen.missing)
    write_score_table(scored, path, scorer=name, settings=_recorded(chosen))
    return ScoringResult(path, scored.frame, scored.counts)


def _recorded(chosen: ScoreSettings) -> dict[str, Any]:
    """Return what decided the scores of any scorer."""
    return {name: getattr(chosen, name) for name in ("history_length", "repeats", "seed", "missing")}
