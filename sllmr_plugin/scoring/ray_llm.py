"""Offline scoring with Ray Data's LLM batches: the rows before the engine, the rows behind it, and the rounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from ..errors import ConfigError
from .client import Completion
from .ledger import Ledger
from .ledger_file import LedgerAnswer
from .prompts import answer_schema
from .questions import Question, Questions
from .requests import ScoringRequest

Row = dict[str, Any]


class BatchStages:
    """What ``ray.data.llm.build_processor`` takes as `preprocess` and `postprocess`.

    All that belongs to a row besides the engine's own columns is JSON text in the column ``asked``: as nested columns,
    prompts of different lengths would be given each other's fields by Arrow.

    Parameters
    ----------
    questions : Questions
        Its model is the name that answers are kept under.

    Raises
    ------
    ConfigError
        If the questions ask for log-probabilities, which batches give in another form.

    Examples
    --------
    >>> stages = BatchStages(Questions("tiny"))
    >>> request = ScoringRequest("ann", ("Chess",), (7, 8), ("Go", "Doom"))
    >>> row = stages.preprocess(stages.row(request))
    >>> row["sampling_params"]["max_tokens"]
    240
    >>> row |= {"generated_text": '{"scores": {"1": 0.9, "2": 0.1}}', "num_input_tokens": 300}
    >>> row["num_generated_tokens"] = 9
    >>> stages.answer(stages.postprocess(row)).scores
    (0.9, 0.1)
    """

    def __init__(self, questions: Questions) -> None:
        if questions.top_logprobs:
            raise ConfigError("batches on Ray Data are read without log-probabilities; leave out top_logprobs.")
        if questions.extra_body:
            raise ConfigError("batches on Ray Data have no request body; leave out extra_body.")
        self.questions = questions

    def row(self, request: ScoringRequest, so_far: Iterable[LedgerAnswer] = ()) -> Row:
        """Return a request as a row, with the answers to it that could not be used."""
        earlier = [[answer.response, answer.error] for answer in so_far]
        return {"asked": json.dumps({"request": asdict(request), "so_far": earlier})}

    def preprocess(self, row: Row) -> Row:
        """Return the columns that the engine reads: chat messages and sampling parameters."""
        question = self._question(row)
        n_candidates = len(question.request.item_ids)
        # No answer comes back in time to learn from, so the form that every grammar can enforce.
        schema = json.dumps(answer_schema(n_candidates, self.questions.template.answer, "steps"))
        parameters = {
            "max_tokens": question.parameters["max_tokens"],  # None is vLLM's "as long as the context allows"
            "structured_outputs": {"json": schema},
        }
        if question.parameters["temperature"] is not None:
            parameters["temperature"] = question.parameters["temperature"]
        return {**row, "messages": question.messages, "sampling_params": parameters}

    def postprocess(self, row: Row) -> Row:
        """Return the answer as the ledger keeps it, in JSON, in place of the engine's columns."""
        question = self._question(row)
        longest, n_tokens = question.parameters["max_tokens"], int(row["num_generated_tokens"])
        completion = Completion(
            str(row["generated_text"]),
            int(row["num_input_tokens"]),
            n_tokens,
            cut_off=longest is not None and n_tokens >= longest,
        )
        return {"answer": json.dumps(asdict(self.questions.read(question, completion, cost=None)))}

    @staticmethod
    def answer(row: Row) -> LedgerAnswer | None:
        """Return the answer that a finished row holds; None for one that failed in the engine."""
        if not row.get("answer"):
            return None
        values = json.loads(row["answer"])
        return LedgerAnswer(**values | {"scores": None if values["scores"] is None else tuple(values["scores"])})

    def _question(self, row: Row) -> Question:
        asked = json.loads(row["asked"])
        request = asked["request"]
        for name in ("history", "item_ids", "titles"):
            request[name] = tuple(request[name])
        question = self.questions.first(ScoringRequest(**request))
        for response, error in asked["so_far"]:
            answer = _unusable(question, response, error)
            question = replace(self.questions, attempts=question.attempt + 2).next(question, answer) or question
        return question


def score_in_rounds(
    requests: Iterable[ScoringRequest],
    stages: BatchStages,
    ledger: Ledger,
    process: Callable[[list[Row]], Iterable[Row]],
) -> int:
    """Score requests round by round: first all that have no answer, then those whose answer cannot be used.

    Every row that comes back is committed to the ledger, so a job that was killed asks only for the rest. Rows that
    failed in the engine are left to the next job.

    Parameters
    ----------
    requests : iterable of ScoringRequest
        Gone through once a round.
    stages : BatchStages
    ledger : Ledger
    process : callable
        Takes rows and yields finished ones in any order, for instance
        ``lambda rows: processor(ray.data.from_items(rows)).iter_rows()``.

    Returns
    -------
    int
        Answers received.
    """
    received = 0
    for _ in range(stages.questions.attempts):
        rows = list(_pending(requests, stages, ledger))
        if not rows:
            break
        for row in process(rows):
            answer = stages.answer(row)
            if answer is not None:
                ledger.record(answer).result()
                received += 1
    return received


def _pending(requests: Iterable[ScoringRequest], stages: BatchStages, ledger: Ledger) -> Iterable[Row]:
    """Yield a row for every conversation that is not at its end; the very same words once."""
    waiting = set()
    for request in requests:
        question: Question | None = stages.questions.first(request)
        so_far: list[LedgerAnswer] = []
        while question is not None and (answer := ledger.get(question.key)) is not None:
            answer = stages.questions.today(answer, request)
            so_far.append(answer)
            question = None if answer.ok else stages.questions.next(question, answer)
        if question is not None and question.key not in waiting:
            waiting.add(question.key)
            yield stages.row(request, so_far)


def _unusable(question: Question, response: str, error: str) -> LedgerAnswer:
    """Return what `Questions.next` reads of an answer that cannot be used."""
    request = question.request
    return LedgerAnswer(
        key=question.key,
        first_key=question.first_key,
        attempt=question.attempt,
        model="",
        user_id=str(request.user_id),
        repeat=request.repeat,
        request={},
        response=response,
        scores=None,
        error=error,
    )
