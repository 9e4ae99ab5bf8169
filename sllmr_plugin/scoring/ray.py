"""Through Ray: `run_on_ray`, whose workers send and commit (`ScoringWorker`); `BatchStages`, for Ray Data's LLMs."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, EngineError, ScoringStoppedError, ServerError, SLLMRError, SLLMRWarning
from ..parallel.engine import RayEngine
from .asking import ServerAsker, Tally, check_can_run, settle
from .client import Completion
from .ledger import Ledger, PartitionFiles, Partitions, merge_partitions, partition_folder, take_over
from .ledger_file import LedgerAnswer
from .limits import CircuitBreaker, Quota
from .prices import Price, RunLimits, RunSummary, Spending
from .prompts import answer_schema
from .questions import Conversation, Question, Questions
from .requests import ScoringRequest
from .runner import Runner
from .servers import ServerForm
from .settings import ServerSettings

_PATIENCE = 60.0  # seconds: this worker's own predecessor, killed, lets go of the partition in a moment


@dataclass(frozen=True)
class Reply:
    """What came of a question; errors are values here, so that Ray neither wraps them nor writes them to its logs.

    Attributes
    ----------
    answer : LedgerAnswer or None
        Committed to the worker's partition.
    problem : SLLMRError or None
        Why there is no answer.
    warnings : tuple of SLLMRWarning
        To be shown where the user looks.
    form : ServerForm or None
        The form of request that was answered.
    quota : Quota or None
        What the server has told last of what may be asked.
    """

    answer: LedgerAnswer | None = None
    problem: SLLMRError | None = None
    warnings: tuple[Warning, ...] = ()
    form: ServerForm | None = None
    quota: Quota | None = None


class ScoringWorker:
    """The body of a Ray actor.

    Parameters
    ----------
    server : ServerSettings
    questions : Questions
        How to read the answers.
    price : Price or None
    partition : path
        The ledger partition, on this machine's disk.
    """

    def __init__(
        self, server: ServerSettings, questions: Conversation[Any], price: Price | None, partition: Path
    ) -> None:
        self._server, self._questions, self._price, self._path = server, questions, price, partition
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._opened: tuple[ServerAsker, Ledger] | None = None

    async def start(self) -> tuple[str, int] | SLLMRError:
        """Make the client and the partition; return the server's address and this process's id, or the problem."""
        try:
            self._open()
        except SLLMRError as error:
            return error
        return self._server.address(), os.getpid()

    async def ask(self, question: Question, form: ServerForm | None = None, answered: bool = False) -> Reply:
        """Return the answer to a question: the partition's, or the server's, which is committed there first.

        `form` is the form of request that the server is known to take, and `answered` whether it has in this run.
        """
        try:
            asker, partition = self._open()
            kept = partition.get(question.key)
        except SLLMRError as problem:
            return Reply(problem=problem)
        if kept is not None:
            return Reply(kept)
        if form is not None:
            asker.begin_with(form, answered=answered)
        self._asking[question.key] = asyncio.ensure_future(self._send(question))
        try:
            return await self._asking[question.key]
        finally:
            del self._asking[question.key]

    async def find(self, key: str) -> Reply:
        """Return the partition's answer to a question, waiting for it if it is just being asked."""
        if (asking := self._asking.get(key)) is not None:
            return await asking
        try:
            return Reply(self._open()[1].get(key))
        except SLLMRError as problem:
            return Reply(problem=problem)

    async def stop(self) -> None:
        """Close the client and the partition."""
        if self._opened is not None:
            asker, ledger = self._opened
            self._opened = None
            await asker.close()
            ledger.close()

    def _open(self) -> tuple[ServerAsker, Ledger]:
        # Also after Ray has started the process again, when `start` is not called.
        if self._opened is None:
            asker = ServerAsker(self._server.client(), self._questions, self._price)
            self._opened = asker, Ledger(self._path, patience=_PATIENCE)
        return self._opened

    async def _send(self, question: Question) -> Reply:
        asker, ledger = self._open()
        try:
            completion = await asker.complete(question)
            with warnings.catch_warnings(record=True) as caught:  # no await in here: it would catch other questions'
                warnings.simplefilter("always", SLLMRWarning)
                answer = asker.read(question, completion)
            await asyncio.wrap_future(ledger.record(answer))
        except SLLMRError as problem:
            return Reply(problem=problem, quota=asker.quota)
        told = tuple(one.message for one in caught if isinstance(one.message, SLLMRWarning))
        return Reply(answer, warnings=told, form=asker.form, quota=asker.quota)


_START_SECONDS = 300.0  # for all workers: on a busy machine a process takes long to import what it needs
_RESTART_SECONDS = 120.0
_STOP_SECONDS = 10.0


def run_on_ray(
    requests: Iterable[Any],
    questions: Conversation[Any],
    server: ServerSettings,
    ledger: Ledger,
    engine: RayEngine,
    *,
    limits: RunLimits | None = None,
    price: Price | None = None,
    breaker: CircuitBreaker | None = None,
    verbose: bool = True,
    take: Callable[[Any, LedgerAnswer], None] | None = None,
    spending: Spending | None = None,
) -> RunSummary:
    """Ask a server about all requests through Ray workers; the answers are in the ledger afterwards.

    This process decides what is sent when, with the `Runner` of `run`: so the limits, the pauses after a 429, the
    circuit breaker and above all the cap of the cost hold for all workers together, exactly. The workers send, read the
    answers and commit each to a ledger partition on their own machine's disk before they hand it over. A question
    always goes to the worker that its hash names. When a worker dies, Ray starts it again on the same machine, where it
    finds what it had received; what it had not is asked again. Partitions that a killed run has left are taken into
    the ledger before anything is asked, from every machine of the cluster.

    Parameters
    ----------
    requests : iterable of Request
    questions : Questions
    server : ServerSettings
        Whom the workers ask, with the key of their own environment.
    ledger : Ledger
        Answers there are not asked for again. The folder `partition_folder` names has to be writable on all machines.
    engine : RayEngine
        The cluster, and how many workers.
    limits, price, breaker, verbose, take, spending
        As in `run`, for all workers together.

    Returns
    -------
    RunSummary

    Raises
    ------
    EngineError
        If the workers cannot be started.
    ScoringStoppedError, LedgerError, PriceError, KeyboardInterrupt
        As in `run`.
    """
    limits = limits or RunLimits()
    check_can_run(questions, ledger, limits, price)
    folder = partition_folder(ledger.path)
    tally = Tally(questions, ledger, take, spending)
    with _Cluster(engine, folder) as cluster:
        take_over(ledger, *cluster.partitions)
        asker = cluster.start_workers(server, questions, price, limits.concurrency)
        breaker = breaker or CircuitBreaker()
        try:
            summary = settle(Runner(requests, questions, asker, ledger, limits, price, breaker, verbose, tally))
        finally:  # what came for questions that this process had given up waiting for
            cluster.kill_workers()
            left: list[Partitions] = [PartitionFiles(folder), *cluster.partitions]
            found = sum(merge_partitions(ledger, one) for one in left)
        if found:
            for request in tally.unanswered:
                tally.look_up(request)
    return summary


class RayAsker:
    """Hands questions to the workers; an `Asker`.

    Parameters
    ----------
    ray : module
    workers : sequence of actor handles
        Of `ScoringWorker`.
    address : str, default="OpenAI"
        Of the server that they ask.
    """

    def __init__(self, ray: Any, workers: Sequence[Any], address: str = "OpenAI") -> None:
        self._exceptions, self._workers = ray.exceptions, list(workers)
        self.address, self.form = address, ServerForm()
        self._answered = False
        self.quota: Quota | None = None

    async def ask(self, question: Question) -> LedgerAnswer:
        """Have a question asked once; raise `ServerError` if no answer comes."""
        if not self._workers:
            raise ScoringStoppedError(
                "all workers are gone for good. Look at the cluster and run the same command again; nothing that was "
                "received and can still be reached is asked again."
            )
        # By the first question, so that the same words go to the same worker, whichever user they are about.
        worker = self._workers[int(question.first_key[:8], 16) % len(self._workers)]
        try:
            reply = await worker.ask.remote(question, self.form, self._answered)
        except self._exceptions.RayActorError:
            reply = await self._find(worker, question.key)
        except self._exceptions.RayError as error:
            what = " ".join(str(error).split())[-500:]
            raise EngineError(f"a worker failed: {what}. Look at the cluster and run the same again.") from None
        self.quota = reply.quota or self.quota
        for warning in reply.warnings:
            warnings.warn(warning, stacklevel=2)
        if reply.problem is not None:
            raise reply.problem
        if reply.answer is None:
            raise ServerError("the worker died while the request was in flight", "lost")
        if reply.form is not None and not self._answered:  # what one worker has found out is told to all
            self.form, self._answered = reply.form, True
        return reply.answer

    async def close(self) -> None:
        """Stop the workers."""
        stopping = [asyncio.ensure_future(_ended(worker.stop.remote())) for worker in self._workers]
        if stopping:
            await asyncio.wait(stopping, timeout=_STOP_SECONDS)

    async def _find(self, worker: Any, key: str) -> Reply:
        """Ask a worker that has died, and that Ray starts again, whether it had received an answer."""
        deadline = asyncio.get_running_loop().time() + _RESTART_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                return await worker.find.remote(key)
            except self._exceptions.ActorUnavailableError:  # not up yet
                await asyncio.sleep(0.2)
            except self._exceptions.RayActorError:
                break
        if worker in self._workers:  # its machine is gone: the others take over
            self._workers.remove(worker)
        return Reply()


class _Cluster:
    """The actors of one run: a reader of partitions on every other machine, and the workers."""

    def __init__(self, engine: RayEngine, folder: Path) -> None:
        self._engine, self._ray, self._folder = engine, engine.ray, folder
        self._workers: list[Any] = []
        here = self._ray.get_runtime_context().get_node_id()
        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        self._nodes = sorted(nodes, key=lambda node: node != here)
        self._readers = [self._actor(PartitionFiles, node, 0, folder) for node in self._nodes if node != here]

    def __enter__(self) -> _Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill_workers()
        for reader in self._readers:
            self._ray.kill(reader)

    def kill_workers(self) -> None:
        """End the workers' processes, and with them their hold of the partitions."""
        while self._workers:
            self._ray.kill(self._workers.pop())

    @property
    def partitions(self) -> list[RemotePartitions]:
        """The other machines' partitions."""
        return [RemotePartitions(self._engine, reader) for reader in self._readers]

    def start_workers(
        self, server: ServerSettings, questions: Conversation[Any], price: Price | None, concurrency: int
    ) -> RayAsker:
        """Start the workers, in turn on the machines that have room for them."""
        nodes = self._rooms()
        self._workers = [
            self._actor(
                ScoringWorker,
                nodes[number % len(nodes)],
                1,
                server,
                questions,
                price,
                self._folder / f"{number}.sqlite",
                max_restarts=-1,
                max_task_retries=0,  # whether a request is sent again is the runner's decision
                max_concurrency=concurrency + 10,
            )
            for number in range(self._engine.workers)
        ]
        starting = [worker.start.remote() for worker in self._workers]
        done, waiting = self._ray.wait(starting, num_returns=len(starting), timeout=_START_SECONDS)
        if waiting:
            raise EngineError(
                f"{len(done)} of {len(starting)} workers have started within {_START_SECONDS:.0f} s: the cluster has "
                "no room. Lower --workers, or see with `ray status` what else runs there."
            )
        for node, found in zip(nodes * len(starting), map(self._engine.get, starting), strict=False):
            if isinstance(found, SLLMRError):
                raise found
            if found[0] != server.address():
                raise EngineError(
                    f"a worker on node {node[:8]} would ask {found[0]}, and this process means {server.address()}. Set "
                    "OPENAI_BASE_URL alike where `ray start` runs, or give --base-url."
                )
        return RayAsker(self._ray, self._workers, server.address())

    def _rooms(self) -> list[str]:
        """Return the nodes, once for every CPU, in turn."""
        cpus = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes()}
        return [node for turn in range(max(cpus.values())) for node in self._nodes if cpus[node] > turn]

    def _actor(self, kind: type, node: str, cpus: int, *arguments: Any, **options: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node, soft=False)  # where its files are
        return self._ray.remote(num_cpus=cpus, scheduling_strategy=place, **options)(kind).remote(*arguments)


class RemotePartitions:
    """The `Partitions` of another machine, read by an actor of `PartitionFiles` there."""

    def __init__(self, engine: RayEngine, reader: Any) -> None:
        self._get, self._reader = engine.get, reader

    def names(self) -> list[str]:
        """Return the partitions there."""
        return self._get(self._reader.names.remote())

    def keys(self, name: str, after: str) -> list[str]:
        """Return the next keys behind a key in alphabetical order."""
        return self._get(self._reader.keys.remote(name, after))

    def answers(self, name: str, keys: Sequence[str]) -> list[LedgerAnswer]:
        """Return the answers with these keys."""
        return self._get(self._reader.answers.remote(name, list(keys)))

    def remove(self, name: str) -> None:
        """Delete a partition."""
        self._get(self._reader.remove.remote(name))


async def _ended(reference: Any) -> None:
    """Wait for a call, and ignore its result and errors."""
    try:
        await reference
    except Exception:  # a worker that has died has stopped
        return


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
