"""What a batch's files hold, line by line, and how much one may hold: `BatchSize`."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST_REQUESTS = 50_000  # of one batch, at OpenAI
_MOST_BYTES = 150_000_000
# Under a cap, as long as nobody knows how long, and so how dear, answers without a limit get.
FIRST_UNLIMITED = 5
# What a server says to a batch that would take the account above the tokens that may wait in batches.
_QUEUE_FULL = re.compile(r"enqueued|token_limit_exceeded", re.IGNORECASE)
_QUEUE_LIMIT = re.compile(r"limit\D{0,20}(\d[\d,]*)", re.IGNORECASE)


class BatchSize:
    """The most that the next batch may hold.

    Parameters
    ----------
    requests : int
    """

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.tokens = math.inf

    def allows(self, requests: int, n_bytes: int, tokens: int) -> bool:
        """Tell whether a batch may hold so much; a single request always may."""
        return requests <= self.requests and n_bytes <= _MOST_BYTES and (requests == 1 or tokens <= self.tokens)

    def lower(self, tokens: int, said: str) -> None:
        """Allow half the tokens of a batch that was refused, and no more than the server says it takes."""
        self.tokens = tokens / 2
        named = _QUEUE_LIMIT.search(said)
        if named and (limit := float(named[1].replace(",", ""))) > 0:
            self.tokens = min(self.tokens, limit)


def says_queue_is_full(text: str) -> bool:
    """Tell whether a server refuses a batch because too much would wait there."""
    return _QUEUE_FULL.search(text) is not None


def written_line(key: str, body: Mapping[str, Any]) -> bytes:
    """Return a request as a line of a batch's file."""
    line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def read_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a line that is none is passed over and asked again."""
    for line in content.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
