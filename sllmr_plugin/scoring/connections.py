"""`Connections`: pools of connections to one server, and what its headers tell of the quota."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from .limits import Quota, read_quota

#: The library looks at every connection of a pool at each request, so a pool for hundreds of requests is slow.
_REQUESTS_A_POOL = 32
_SENT = "sllmr_sent"


class Connections:
    """Lends library objects that send requests, each with a pool of connections of its own.

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
        The first one, for calls that are not many.
    quota : Quota or None
        What the server has told last.
    """

    def __init__(self, openai: Any, address: str | None, key: str, timeout: float, **options: Any) -> None:
        self._openai = openai
        self._timeout = openai.Timeout(timeout, connect=10.0)
        self.quota: Quota | None = None
        httpx = sys.modules[openai.DefaultAsyncHttpxClient.__base__.__module__.partition(".")[0]]
        self._tls = httpx.create_ssl_context()  # reads all certificates, so once for all pools
        self.library = openai.AsyncOpenAI(
            api_key=key, base_url=address, timeout=self._timeout, max_retries=0, http_client=self._pool(), **options
        )
        self._libraries = [self.library]
        self._free = [self.library] * _REQUESTS_A_POOL

    @contextlib.contextmanager
    def lend(self) -> Iterator[Any]:
        """Lend a library object whose pool has room for a request."""
        if not self._free:
            self._libraries.append(self.library.copy(http_client=self._pool()))
            self._free = [self._libraries[-1]] * _REQUESTS_A_POOL
        library = self._free.pop()
        try:
            yield library
        finally:
            self._free.append(library)

    async def close(self) -> None:
        """Close all connections."""
        for library in self._libraries:
            await library.close()

    def _pool(self) -> Any:
        hooks = {"request": [self._note_sent], "response": [self._note_quota]}
        return self._openai.DefaultAsyncHttpxClient(timeout=self._timeout, verify=self._tls, event_hooks=hooks)

    async def _note_sent(self, request: Any) -> None:
        request.extensions[_SENT] = time.monotonic()

    async def _note_quota(self, response: Any) -> None:
        sent = response.request.extensions.get(_SENT)
        if sent is not None:
            self.quota = read_quota(response.headers, time.monotonic() - sent) or self.quota
