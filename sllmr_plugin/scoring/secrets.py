"""Secrets, and what takes them out of texts that are stored, logged or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

SHORTEST_SECRET = 6  # a placeholder such as "none" is not a secret, and common words must not be cut out of answers
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

    Replaced are the given values, those of the OPENAI_* variables that hold secrets, and all that looks like
    a key, an organisation or project id, an Authorization header or credentials in an address.

    Examples
    --------
    >>> scrubber(["hunter22"])("key hunter22 of org-AbC123 is wrong; see http://me:pw1@host/v1")
    'key *** of *** is wrong; see http://***host/v1'
    """
    known = {value for value in (*secrets, *map(os.environ.get, _VARIABLES)) if value}
    exact = [re.escape(value) for value in sorted(known, key=len, reverse=True) if len(value) >= SHORTEST_SECRET]
    values = re.compile("|".join(exact)) if exact else None

    def scrub(text: str) -> str:
        if values is not None:
            text = values.sub("***", text)
        return _PATTERNS.sub("***", text)

    return scrub


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
