"""Keys and organisation ids reach no error, log, file or traceback."""

import asyncio
import logging
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.errors import ServerError
from sllmr_plugin.scoring.client import OpenAIClient, key_remover
from sllmr_plugin.scoring.secrets import scrubber

from .scoring_server import ScoringServer

MESSAGES = [{"role": "user", "content": '"1": "Go"'}]


@given(st.text(), st.text(), st.text("abcdefghijklmnopqrstuvwxyzABCDEFG0123456789-_", min_size=6))
def test_a_known_secret_is_gone_from_any_text(before, after, secret):
    assert secret not in scrubber([secret])(before + secret + after).replace("***", "")
    assert secret not in key_remover(secret)(before + secret + after).replace("***", "")


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-SECRET1234567890",
        "sk-SECR********************ET12",
        "org-SECRETabcdef",
        "proj_SECRETabcdef",
        "Authorization: Bearer SECRET.abc-def",
        "https://me:SECRET@host/v1",
        "https://host/v1?api-key=SECRET&x=1",
    ],
)
def test_what_looks_like_a_secret_is_gone(text):
    assert "SECRET" not in scrubber()(f"it says {text} here")
    assert scrubber()(f"it says {text} here").startswith("it says ")


def test_common_words_and_placeholders_stay():
    text = '{"scores": {"1": 0.5}} none of the risk-free task-lists in organic projects'
    assert scrubber(["none"])(text) == text
    assert key_remover("none")(text) == text


@pytest.mark.parametrize("kind", ["401", "500", "hang:60", "cut", "bad json", "html"])
def test_nothing_that_python_can_print_of_an_error_holds_the_key(monkeypatch, caplog, capfd, kind):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-TOPSECRET0123456789")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-TOPSECRET42")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    with ScoringServer(lambda number, body: kind) as server:
        client = OpenAIClient("tiny", base_url=server.base_url, timeout=1.0 if kind.startswith("hang") else 60.0)

        async def ask():
            try:
                await client.complete(MESSAGES, 1, {})
            finally:
                await client.close()

        with pytest.raises(ServerError) as caught:
            asyncio.run(ask())
    assert server.seen[0].headers["Authorization"].endswith("TOPSECRET0123456789")  # it was really sent
    printed = "".join(traceback.format_exception(caught.value))
    assert "TOPSECRET" not in printed + str(vars(client)) + repr(client)
    assert caught.value.__suppress_context__
    logged = caplog.text + "".join(capfd.readouterr())
    assert "TOPSECRET" not in logged


def test_no_key_and_no_address_is_told_with_the_ways_out(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ServerError, match="OPENAI_API_KEY.*--base-url.*lexical"):
        OpenAIClient("tiny")
    assert OpenAIClient("tiny", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize("address", ["localhost", "http://[::1", "ftp://x"])
def test_an_address_that_makes_no_sense_is_told(monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-TOPSECRET0123456789")

    async def ask():
        client = OpenAIClient("tiny", base_url=address, timeout=1)
        await client.complete(MESSAGES, 1, {})

    with pytest.raises(ServerError):
        asyncio.run(ask())
