"""`OpenAIClient`: one chat completion from any OpenAI-compatible server, or a `ServerError` that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ServerError
from .answer_text import breaks_bounds, how_it_ended, read_message, token_logprobs
from .limits import Quota, read_quota
from .prices import estimate_tokens
from .prompts import AnswerForm, SchemaLimits, response_format
from .secrets import (
    SHORTEST_SECRET,
    named_secrets,
    scrubber,
)
from .servers import OF_THE_FORM, ErrorReader, FormSearch, ServerForm

_LARGEST_COUNT = 2**53
# A request that a server does not understand comes back with one of these, whatever the message.
_NOT_UNDERSTOOD = (400, 404, 415, 422, 500, 501)
_SEARCHES = 3  # for so many questions that are refused in every form; further ones are refused for what they ask
_BROKEN_SECONDS = 1.0  # before a request that a server failed at is sent again in the same form


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes
    ----------
    text : str
        The answer; what the model said instead of one, if it declined.
    prompt_tokens, completion_tokens : int
        As the server counted, estimated where it does not count. Reasoning is part of the completion.
    cached_tokens : int
        Of the prompt tokens, those that the server had in its cache.
    cut_off : bool
        Whether the limit of tokens ended the answer.
    logprobs : list of dict or None
        ``choices[0].logprobs.content``, where the server gives it.
    declined : bool
        Whether the server marks the text as a refusal.
    broken_off : str or None
        Why the server ended the answer before its end, other than for the limit: ``"content_filter"`` or another of its
        words.
    beside : str or None
        Where what the model wrote lies if the text is empty, such as ``"reasoning_content"``.
    form : ServerForm or None
        The form of the request that it answers, where that is known.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False
    logprobs: list[Any] | None = None
    declined: bool = False
    cached_tokens: int = 0
    broken_off: str | None = None
    beside: str | None = None
    form: ServerForm | None = None


#: The HTTP library looks at every connection of a pool at each request, so a pool for hundreds of requests is slow.
_REQUESTS_A_POOL = 16


class Connections:
    """Posts JSON with the HTTP library of openai, and with its headers, query and errors.

    openai's own methods go through every part of a request and an answer several times, which takes longer than all
    that a run does besides; so they are left to the few calls that are not one of thousands.

    Parameters
    ----------
    openai : module
    address : str or None
        Of the server; None is OpenAI's.
    key : str
    timeout : float
        Seconds for a whole request.
    **options
        Further arguments of ``openai.AsyncOpenAI``.

    Attributes
    ----------
    library : openai.AsyncOpenAI
        For all other calls.
    quota : Quota or None
        What the server has told last.
    """

    def __init__(self, openai: Any, address: str | None, key: str, timeout: float, **options: Any) -> None:
        self._openai = openai
        self._timeout = openai.Timeout(timeout, connect=10.0)
        self.quota: Quota | None = None
        # httpx, or what a version of openai has in its place
        self._http = sys.modules[openai.DefaultAsyncHttpxClient.__base__.__module__.partition(".")[0]]
        self._tls = self._http.create_ssl_context()  # reads all certificates, so once for all pools
        self.library = openai.AsyncOpenAI(
            api_key=key, base_url=address, timeout=self._timeout, max_retries=0, http_client=self._pool(), **options
        )
        self._headers = {
            name: value
            for name, value in {**self.library.default_headers, **self.library.auth_headers}.items()
            if isinstance(value, str)  # others stand for headers that are left out
        }
        self._base, self._query = str(self.library.base_url).rstrip("/"), self.library.default_query or None
        self._pools: list[Any] = []
        self._free: list[Any] = []

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Post a JSON body; return the JSON values that come back, or the text where it is not said to be JSON.

        Raises
        ------
        openai.APITimeoutError, openai.APIConnectionError, openai.APIStatusError
            As openai's own methods.
        ValueError, RecursionError
            If what comes back is not the JSON that it is said to be.
        """
        content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        sent = time.monotonic()
        try:
            with self._lent() as pool:
                response = await pool.post(
                    self._base + path, content=content, headers=self._headers, params=self._query
                )
        except self._http.TimeoutException as error:
            raise self._openai.APITimeoutError(request=error.request) from error
        except self._http.HTTPError as error:
            raise self._openai.APIConnectionError(request=error.request) from error
        told = {name: value for name, value in response.headers.items() if "ratelimit" in name}
        self.quota = read_quota(told, time.monotonic() - sent) or self.quota
        if not response.is_success:
            raise self._openai.APIStatusError(f"status {response.status_code}", response=response, body=None)
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return response.json() if kind.endswith("json") else response.text

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()
        await self.library.close()

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Any]:
        """Lend a pool that has room for a request."""
        if not self._free:
            self._pools.append(self._pool())
            self._free = [self._pools[-1]] * _REQUESTS_A_POOL
        pool = self._free.pop()
        try:
            yield pool
        finally:
            self._free.append(pool)

    def _pool(self) -> Any:
        try:  # takes half the processor time of the other
            return self._openai.DefaultAioHttpClient(timeout=self._timeout, verify=self._tls)
        except (AttributeError, RuntimeError):  # an earlier version of openai, or one without its part for aiohttp
            return self._openai.DefaultAsyncHttpxClient(timeout=self._timeout, verify=self._tls)


class OpenAIClient:
    """Asks a server that speaks OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama and others.

    The key is read from ``OPENAI_API_KEY`` and is in no attribute, log, error or traceback of this class. Structured
    output is asked for first. A server that refuses the first request is asked in other forms (`ServerForm`), and the
    one that it takes is that of all requests from then on. There are no retries here: `run` does them, so that each
    shows in the ledger.

    Parameters
    ----------
    model : str
        As the server calls it.
    base_url : str or None, default=None
        Address of the server, for instance ``http://localhost:8000/v1``; None takes ``OPENAI_BASE_URL``, else
        OpenAI.
    timeout : float, default=60
        Seconds for a whole request.
    answer : {"scores", "ranking", "text"}, default="scores"
        What the schema asks for.

    Attributes
    ----------
    address : str
        Of the server, without secrets.
    form : ServerForm
        The form of request that the server is taken to want; may be set before the first request.
    answered : bool
        Whether the server has answered in this form. From then on a refusal is that of a request, and changes
        nothing for the others.

    Raises
    ------
    ServerError
        If there is no key and the server is OpenAI's, or the address is not valid.
    """

    def __init__(
        self, model: str, *, base_url: str | None = None, timeout: float = 60.0, answer: AnswerForm = "scores"
    ) -> None:
        import openai  # takes a second, which only those who ask a server should wait for

        key = os.environ.get("OPENAI_API_KEY", "").strip()
        address = base_url or os.environ.get("OPENAI_BASE_URL") or None
        scrub_key = scrubber([key])
        self._named_secrets: set[str] = set()
        self._scrub_body = scrubber()
        self.scrub: Callable[[str], str] = lambda text: self._scrub_body(scrub_key(text))
        self._without_key = key_remover(key)
        if not key.isprintable() or not key.isascii():
            raise ServerError(
                "OPENAI_API_KEY holds a line break or another character that keys do not contain. Copy the key again.",
                "hopeless",
            )
        if not key and address is None:
            raise ServerError(
                "there is no key. Set the environment variable OPENAI_API_KEY, give --base-url for a server of "
                "your own, or score without a model: score --scorer lexical, texts --writer titles.",
                "hopeless",
            )
        self.model = model
        self.address = server_address(base_url)
        self.form = ServerForm()
        self.answered = False
        self._timeout = timeout
        self._answer = answer
        self._openai = openai
        self._errors = ErrorReader(model, self.scrub)
        self._searches = _SEARCHES
        base, query = _address(address, "--base-url" if base_url else "OPENAI_BASE_URL", self.scrub)
        try:
            # The query stands at the end of every address, behind the path that is asked for.
            self._connections = Connections(openai, base, key or "none", timeout, default_query=query)
        except Exception as error:  # the library refuses addresses that make no sense with errors of several kinds
            raise ServerError(
                f"{self.scrub(str(error))}. Check --base-url: an address such as http://localhost:8000/v1.", "hopeless"
            ) from None
        self.library = self._connections.library
        self._where = self.scrub(str(self.library.base_url))

    async def complete(
        self, messages: Sequence[Mapping[str, Any]], n_candidates: int, parameters: Mapping[str, Any]
    ) -> Completion:
        """Ask once.

        Parameters
        ----------
        messages : sequence of mapping
            Chat messages.
        n_candidates : int
            How many candidates the answer's schema has; 0 for a text.
        parameters : mapping
            ``temperature``, ``max_tokens``, ``top_logprobs`` and ``extra_body``, each of which may be missing.

        Raises
        ------
        ServerError
            If no answer came. Its `kind` says whether to try again.
        """
        form, broken = self.form, False
        search = FormSearch(form)
        told: ServerError | None = None  # by the server, of the form that the search goes out from
        sent: list[dict[str, Any]] = []
        while True:
            body = self.body(messages, n_candidates, parameters, form)
            try:
                completion = await self._send(body)
            except ServerError as problem:
                guess = not self.answered and self._searches > 0 and problem.cause in (None, "format", "system")
                if not self._is_of_the_form(problem) or not (guess or problem.cause in OF_THE_FORM):
                    raise
                if guess and problem.status in (500, 501) and not broken:
                    broken = True  # it may have been an accident
                    await asyncio.sleep(_BROKEN_SECONDS)
                    continue
                told = told or problem
                sent.append(body)
                other = search.next(form, problem.cause, guess=guess)
                while other is not None and self.body(messages, n_candidates, parameters, other) in sent:
                    other = search.next(form, None, guess=guess)
                if other is None:
                    self._searches -= guess
                    raise told from None
                if problem.cause is not None and other == form.without(problem.cause):
                    told = None
                form = other
            else:
                if not self.answered:
                    self.form, self.answered = form, True
                return self._noticed(self._read(completion, messages, form))

    async def _send(self, body: dict[str, Any]) -> Any:
        """Send a body once; raise `ServerError` unless a chat completion comes back."""
        completion = await self._post("/chat/completions", body)
        choices = completion.get("choices") if isinstance(completion, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or first.get("error") or completion.get("error"):
            problem = self._errors.in_an_answer(completion, answered=self.answered)
            if problem is not None:
                raise problem from None
        return completion

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a body once; return the JSON values that come back, or raise `ServerError`."""
        try:
            return await asyncio.wait_for(self._connections.post(path, body), self._timeout)
        except asyncio.TimeoutError:
            raise ServerError(f"no answer within {self._timeout:g} s", "lost") from None
        except self._openai.OpenAIError as error:
            raise self.failure(error) from None
        except json.JSONDecodeError as error:
            problem = self._errors.in_an_answer(error.doc, answered=self.answered)
            raise problem or ServerError("the answer is not JSON", "lost") from None
        except Exception as error:  # what a body that is nested too deeply makes of the library
            raise ServerError(f"the answer cannot be read: {self._short(error)}", "lost") from None

    @staticmethod
    def _is_of_the_form(problem: ServerError) -> bool:
        """Tell whether a request may have been refused for its form."""
        if problem.status == 404:  # no such model or address, unless the server names a part of the form
            return problem.cause in OF_THE_FORM
        return problem.status in _NOT_UNDERSTOOD and problem.cause in (None, *OF_THE_FORM)

    def body(
        self,
        messages: Sequence[Mapping[str, Any]],
        n_candidates: int,
        parameters: Mapping[str, Any],
        form: ServerForm | None = None,
    ) -> dict[str, Any]:
        """Return the request's JSON body, in a form or in the one that the server is known to take."""
        form = form or self.form
        body: dict[str, Any] = {"model": self.model, "messages": form.messages(messages)}
        if self._answer == "yes_no":
            pass  # a word: in JSON it would not be the first token
        elif form.answer_format == "json_schema":
            body["response_format"] = _structured(n_candidates, self._answer, form.schema_limits)
        elif form.answer_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        if parameters.get("temperature") is not None and form.temperature:
            body["temperature"] = parameters["temperature"]
        if parameters.get("max_tokens") is not None:
            body[form.limit_name] = parameters["max_tokens"]
        if parameters.get("top_logprobs"):
            body.update(logprobs=True, top_logprobs=parameters["top_logprobs"])
        if extra := parameters.get("extra_body"):
            self._hide(extra)
            body.update(extra)
        return body

    def _hide(self, extra: Mapping[str, Any]) -> None:
        """Remove secrets in a request's body from all messages of the server that are shown from now on."""
        new = set(named_secrets(extra)) - self._named_secrets
        if new:
            self._named_secrets |= new
            self._scrub_body = scrubber(self._named_secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    @property
    def quota(self) -> Quota | None:
        """What the server has told last of what may be asked."""
        return self._connections.quota

    def failure(self, error: Exception) -> ServerError:
        """Return an error of the openai library in our terms, without secrets."""
        openai = self._openai
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError):
            return ServerError(f"no answer within {self._timeout:g} s", "lost")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            never_sent = "Connect" in type(cause).__name__
            detail = self._short(cause if cause is not None else error)
            return ServerError(f"the connection to {self._where} failed ({detail})", "busy" if never_sent else "lost")
        if status is None:  # a response that is not a completion
            return ServerError(f"the answer cannot be understood: {self._short(error)}", "lost")
        response = error.response  # type: ignore[attr-defined]
        return self._errors.read(status, _json(response.text), response.headers, answered=self.answered)

    def refusal(self, status: int | None, body: Any) -> ServerError:
        """Return an error in a batch's file in our terms, as `failure` does those of the openai library."""
        return self._errors.read(status if isinstance(status, int) else None, body, {}, answered=self.answered)

    def read_body(self, body: Any, messages: Sequence[Mapping[str, Any]], form: ServerForm | None = None) -> Completion:
        """Read a chat completion from JSON values, as batches return it; raise `ServerError` if they are not one."""
        problem = self._errors.in_an_answer(body, answered=self.answered)
        if problem is not None:
            raise problem
        return self._noticed(self._read(body, messages, form))

    def _noticed(self, completion: Completion) -> Completion:
        """Find out from an answer whether the server keeps a schema's bounds; from then on list the scores."""
        bounded = self.form.answer_format == "json_schema" and self.form.schema_limits == "bounds"
        if bounded and self._answer == "scores" and breaks_bounds(completion.text):
            self.form = replace(self.form, schema_limits="steps")
        return completion

    def _read(self, completion: Any, messages: Sequence[Mapping[str, Any]], form: ServerForm | None) -> Completion:
        # The JSON values as they are: openai's objects refuse nothing either, and take longer to build than to read.
        try:
            choice = completion["choices"][0]
            message = read_message(choice["message"])
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError(f"the answer is not a chat completion ({self._short(error)})", "lost") from None
        cut_off, broken_off = how_it_ended(choice.get("finish_reason"))
        text = message.content if message.content.strip() else message.refusal
        text = self._without_key(text).encode("utf-8", "replace").decode("utf-8")  # SQLite takes no lone surrogate
        prompt_tokens, completion_tokens, cached_tokens = read_usage(completion, messages, text)
        return Completion(
            text,
            prompt_tokens,
            completion_tokens,
            cut_off=cut_off,
            logprobs=token_logprobs(choice),
            declined=bool(message.refusal and not message.content.strip()),
            broken_off=broken_off,
            beside=message.beside,
            cached_tokens=cached_tokens,
            form=form,
        )

    def _short(self, error: BaseException) -> str:
        return self._errors.shortened(str(error) or type(error).__name__)


def key_remover(key: str) -> Callable[[str], str]:
    """Return a function that takes one key out of a text, and touches nothing else: for a model's answers."""
    return (lambda text: text.replace(key, "***")) if len(key) >= SHORTEST_SECRET else (lambda text: text)


def server_address(base_url: str | None) -> str:
    """Return the address that a client of this process asks, without secrets; "OpenAI" where none is set."""
    return scrubber()(base_url or os.environ.get("OPENAI_BASE_URL") or "OpenAI").rstrip("/")


def _address(
    address: str | None, given_by: str, scrub: Callable[[str], str]
) -> tuple[str | None, dict[str, object] | None]:
    """Return a server's address without its query, and the query; raise `ServerError` if it cannot be one."""
    if address is None:
        return None, None
    example = "Write an address such as http://localhost:8000/v1."
    try:
        parts = urllib.parse.urlsplit(address.strip())
        host = parts.hostname
    except ValueError as error:
        raise ServerError(f"{given_by} {scrub(address)} is not an address ({error}). {example}", "hopeless") from None
    if parts.scheme not in ("http", "https"):
        raise ServerError(f"{given_by} {scrub(address)} does not begin with http:// or https://. {example}", "hopeless")
    if not host:
        raise ServerError(f"{given_by} {scrub(address)} names no server. {example}", "hopeless")
    query: dict[str, object] = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    return urllib.parse.urlunsplit(parts._replace(query="", fragment="")), query or None


def _json(text: str) -> Any:
    """Return the JSON values of a text, or the text if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@functools.lru_cache(maxsize=128)
def _structured(n_candidates: int, answer: AnswerForm, limits: SchemaLimits) -> dict[str, Any]:
    return response_format(n_candidates, answer, limits)


def read_usage(completion: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], text: str) -> tuple[int, int, int]:
    """Return the tokens of prompt and completion, and those of the prompt that came from a cache."""
    usage = _inner(completion, "usage")
    prompt = _count(usage.get("prompt_tokens"), lambda: estimate_tokens(messages))
    written = _count(usage.get("completion_tokens"), lambda: estimate_tokens([{"content": text}]))
    reasoning = _count(_inner(usage, "completion_tokens_details").get("reasoning_tokens"), lambda: 0)
    total = _count(usage.get("total_tokens"), lambda: 0)
    if reasoning and total == prompt + written + reasoning:  # some servers count reasoning beside the completion
        written += reasoning
    cached = _count(_inner(usage, "prompt_tokens_details").get("cached_tokens"), lambda: 0)
    if not cached:  # DeepSeek's name for it
        cached = _count(usage.get("prompt_cache_hit_tokens"), lambda: 0)
    return prompt, written, min(cached, prompt)


def _inner(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object under a name, an empty one if there is none."""
    inner = values.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _count(tokens: object, estimate: Callable[[], int]) -> int:
    """Return a server's count of tokens, or an estimate if there is no plausible count."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < _LARGEST_COUNT else estimate()
