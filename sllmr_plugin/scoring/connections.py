"""Connections to a server, what a request's body may hold besides, and the secrets that never leave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from .limits import Quota, read_quota

_SHORTEST_SECRET = 6  # a placeholder such as "none" is no secret, and common words must not be cut out of answers
_VARIABLES = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_WEBHOOK_SECRET")
_PATTERNS = re.compile(
    r"\b(?:sk|sess)-[\w*.\-]{4,}"  # keys, also as servers abbreviate them: sk-ab***yz
    r"|\borg-[\w\-]{4,}|\bproj_[\w\-]{4,}"
    r"|(?<=://)[^/\s@]+@"  # user:password@host
    r"|(?i:\b(?:bearer|basic)\s+[\w.~+/\-]{6,}=*)"
    r"|(?i:(?<=[?&])[\w\-]*(?:key|token|secret|sig)[\w\-]*=[^&\s'\"]+)"
)

_SECRET_NAME = re.compile(r"(?i)(?:key|token|secret|password|passwd|authorization|credential|cookie|signature)s?$")


def scrubber(secrets: Iterable[str | None] = ()) -> Callable[[str], str]:
    """Return a function that replaces secrets in a text by three stars.

    Replaced are the given values, those of the OPENAI_* variables that hold secrets, and whatever looks like
    a key, an organisation or project id, an Authorization header or credentials in an address.

    Examples
    --------
    >>> scrubber(["hunter22"])("key hunter22 of org-AbC123 is wrong; see http://me:pw1@host/v1")
    'key *** of *** is wrong; see http://***host/v1'
    """
    known = {value for value in (*secrets, *map(os.environ.get, _VARIABLES)) if value}
    exact = [re.escape(value) for value in sorted(known, key=len, reverse=True) if len(value) >= _SHORTEST_SECRET]
    values = re.compile("|".join(exact)) if exact else None

    def scrub(text: str) -> str:
        if values is not None:
            text = values.sub("***", text)
        return _PATTERNS.sub("***", text)

    return scrub


def key_remover(key: str) -> Callable[[str], str]:
    """Return a function that takes one key out of a text, and touches nothing else: for a model's answers."""
    return (lambda text: text.replace(key, "***")) if len(key) >= _SHORTEST_SECRET else (lambda text: text)


def hide_secrets(value: Any, scrub: Callable[[str], str] | None = None) -> Any:
    """Return JSON values without what looks like a secret, for what is stored.

    Texts are replaced where a key, token, password or the like is what the name before them says, and scrubbed
    elsewhere.

    Examples
    --------
    >>> hide_secrets({"top_k": 4, "headers": {"X-Api-Key": "hunter22"}, "user": "org-AbC123"})
    {'top_k': 4, 'headers': {'X-Api-Key': '***'}, 'user': '***'}
    """
    scrub = scrub or scrubber()
    if isinstance(value, dict):
        return {
            (name if scrub is _hidden else scrub(name)): hide_secrets(
                inner, _hidden if _SECRET_NAME.search(name) else scrub
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [hide_secrets(inner, scrub) for inner in value]
    return scrub(value) if isinstance(value, str) else value


def named_secrets(value: Any, named: bool = False) -> Iterator[str]:
    """Yield the texts of JSON values that `hide_secrets` replaces because of the name before them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from named_secrets(inner, named or _SECRET_NAME.search(name) is not None)
    elif isinstance(value, list):
        for inner in value:
            yield from named_secrets(inner, named)
    elif named and isinstance(value, str):
        yield value


def _hidden(text: str) -> str:
    return "***"


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


#: Parameters of a request that `extra_body` must not hold, and what sets them.
_SET_ELSEWHERE = {
    "model": "--model (model=) sets it",
    "messages": "--template (template=) sets them",
    "stream": "answers are read whole",
    "stream_options": "answers are read whole",
    "n": "--repeats asks again, each time in another order",
    "temperature": "--temperature (temperature=) sets it",
    "max_tokens": "--max-tokens (max_tokens=) sets it",
    "max_completion_tokens": "--max-tokens (max_tokens=) sets it",
    "logprobs": "--logprobs (top_logprobs=) sets it",
    "top_logprobs": "--logprobs (top_logprobs=) sets it",
    "response_format": "--answer (the template's answer=) decides it",
}


def checked_extra_body(extra_body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a copy in plain JSON values, None if there is nothing in it; raise `ConfigError` if it cannot be sent."""
    if not extra_body and (extra_body is None or isinstance(extra_body, Mapping)):
        return None
    example = 'such as {"chat_template_kwargs": {"enable_thinking": false}}'
    if not isinstance(extra_body, Mapping) or not all(isinstance(name, str) for name in extra_body):
        raise ConfigError(f"extra_body is no JSON object with names as keys. Give one {example}.")
    for name in extra_body:
        if name in _SET_ELSEWHERE:
            raise ConfigError(f"extra_body must not hold {name}: {_SET_ELSEWHERE[name]}. Leave it out.")
    try:
        return json.loads(json.dumps(dict(extra_body), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        # The error's own words could quote a value, which may be a secret.
        raise ConfigError(
            f"extra_body holds what JSON cannot say ({type(error).__name__}). Give plain values {example}."
        ) from None
