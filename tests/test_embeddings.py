"""`embed_texts` and `sllmr embed` against a server on loopback: what is asked, kept, paid, refused and written."""

import argparse
import dataclasses
import doctest
import json
import sqlite3

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin import Vectors
from sllmr_plugin.cli import embed as embed_command
from sllmr_plugin.cli import main
from sllmr_plugin.errors import (
    AnswerError,
    ConfigError,
    DataError,
    IncompleteWarning,
    PriceError,
    PromptCutWarning,
    ScoringStoppedError,
    ServerError,
    VectorsError,
)
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring import EmbedSettings, Ledger, embed_texts
from sllmr_plugin.scoring.embeddings import packing
from sllmr_plugin.scoring.embeddings.packing import packed, unpacked

from .scoring_server import ScoringServer, vector_of

KEY = "sk-test-SECRETKEY-0123456789"
N_ITEMS, N_USERS = 25, 4


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)


@pytest.fixture
def items():
    return pd.DataFrame(
        {"item_id": [f"i{k}" for k in range(N_ITEMS)], "title": [f"Thing {k} of Ünder" for k in range(N_ITEMS)]}
    )


@pytest.fixture
def texts(items):
    described = pd.DataFrame(
        {"kind": "item", "id": items["item_id"], "text": [f"Does {k} things." for k in range(N_ITEMS)]}
    )
    profiles = pd.DataFrame(
        {"kind": "user", "id": [str(k) for k in range(N_USERS)], "text": [f"Likes {k}." for k in range(N_USERS)]}
    )
    return pd.concat([described, profiles], ignore_index=True)


def embed(*tables, out, **settings):
    return embed_texts(*tables, out=out / "v.parquet", verbose=False, **({"batch_size": 10} | settings))


def sent(server):
    return [text for one in server.seen for text in one.body["input"]]


def test_vectors_are_those_of_the_texts_and_vectors_reads_them(items, texts, tmp_path):
    with ScoringServer() as server:
        result = embed(items, texts, out=tmp_path, base_url=server.base_url)
        assert [one.path for one in server.seen] == ["/v1/embeddings"] * 3
        assert server.seen[0].body.keys() == {"model", "input", "encoding_format"}
        assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    expected = [f"Thing {k} of Ünder. Does {k} things." for k in range(N_ITEMS)] + [
        f"Likes {k}." for k in range(N_USERS)
    ]
    assert sorted(sent(server)) == sorted(expected)
    assert result.table["kind"].tolist() == ["item"] * N_ITEMS + ["user"] * N_USERS
    for vector, text in zip(result.table["vector"], expected, strict=True):
        np.testing.assert_array_equal(vector, vector_of(text))
    read = Vectors.read(result.path)
    assert read.items.ids.tolist() == items["item_id"].tolist()
    assert read.users.ids.tolist() == [str(k) for k in range(N_USERS)]
    assert read.items.matrix.dtype == np.float32
    np.testing.assert_array_equal(read.items.matrix[3], vector_of(expected[3]))
    np.testing.assert_array_equal(read.users.matrix[-1], vector_of(expected[-1]))
    tokens = sum(sum(map(len, one.body["input"])) // 4 for one in server.seen)
    origin = read_metadata(result.path)
    assert origin["model"] == "text-embedding-3-small"
    assert origin["tokens"] == {"prompt": tokens, "completion": 0}
    assert result.cost == pytest.approx(tokens * 0.02 / 1e6)
    assert origin["cost"] == round(result.cost, 6)
    assert (result.counts.items, result.counts.users, result.counts.dimensions) == (N_ITEMS, N_USERS, 8)
    assert result.complete
    assert "vectors of 8 numbers of 25 items and 4 users" in repr(result)


def test_titles_alone_and_texts_alone(items, texts, tmp_path):
    with ScoringServer() as server:
        titles = embed(items, out=tmp_path, base_url=server.base_url)
        alone = embed(None, texts, out=tmp_path, base_url=server.base_url)
    np.testing.assert_array_equal(titles.table["vector"][7], vector_of("Thing 7 of Ünder"))
    np.testing.assert_array_equal(alone.table["vector"][7], vector_of("Does 7 things."))


def test_no_text_is_paid_for_twice_whatever_it_is_sent_with(items, tmp_path):
    with ScoringServer() as server:
        given = {"base_url": server.base_url, "ledger": tmp_path / "l.sqlite"}
        embed(items.iloc[:13], out=tmp_path, **given)
        first = len(server.seen)
        twice = pd.concat([items, items.assign(item_id=[f"other {k}" for k in range(N_ITEMS)])])
        result = embed(twice.iloc[::-1], out=tmp_path, batch_size=4, **given)
        again = embed(items, out=tmp_path, batch_size=7, **given)
    assert len(server.seen) == first + 3  # 12 new texts, 4 a request
    assert set(server.answered.values()) == {1}
    assert len(result.table) == 2 * N_ITEMS
    assert result.counts.reused == 13
    assert (again.counts.reused, again.asked.summary.asked) == (N_ITEMS, 0)
    for found in (result, again):
        by_id = found.table.set_index("id")["vector"]
        for k in range(N_ITEMS):
            np.testing.assert_array_equal(by_id[f"i{k}"], vector_of(f"Thing {k} of Ünder"))


def test_other_models_lengths_and_bodies_are_other_vectors(items, tmp_path):
    with ScoringServer() as server:
        given = {"base_url": server.base_url, "ledger": tmp_path / "l.sqlite"}
        for number, options in enumerate(
            [{}, {"model": "other"}, {"dimensions": 3}, {"extra_body": {"input_type": "document"}}], start=1
        ):
            result = embed(items, out=tmp_path, **given, **options)
            assert len(server.seen) == 3 * number
            np.testing.assert_array_equal(
                result.table["vector"][0], vector_of("Thing 0 of Ünder", options.get("dimensions", 8))
            )
    assert server.seen[-1].body["input_type"] == "document"
    assert server.seen[6].body["dimensions"] == 3


def test_the_ledger_holds_float32_in_base64_and_no_text_or_key(items, tmp_path):
    with ScoringServer() as server:
        embed(items, out=tmp_path, base_url=server.base_url, extra_body={"api_key": "hunter22hunter22"})
    content = (tmp_path / "v.ledger.sqlite").read_bytes()
    for secret in (KEY, "hunter22hunter22", "Thing 7"):
        assert secret.encode() not in content
    connection = sqlite3.connect(tmp_path / "v.ledger.sqlite")
    rows = connection.execute("SELECT response, request FROM answers").fetchall()
    connection.close()
    assert len(rows) == 3
    for response, request in rows:
        n_texts = len(json.loads(request)["texts_sha256"])
        assert response.count("\n") == n_texts - 1
        assert len(response) <= n_texts * (3 + 4 * -(-8 * 4 // 3) + 1)  # place, blank, base64 of 8 numbers of 4 bytes


@pytest.mark.parametrize("kind", ["no base64", "numbers"])
def test_servers_without_base64_are_asked_for_numbers(items, tmp_path, kind):
    with ScoringServer(lambda number, body: kind) as server:
        result = embed(items, out=tmp_path, base_url=server.base_url, concurrency=1)
    for k, vector in enumerate(result.table["vector"]):
        np.testing.assert_array_equal(vector, vector_of(f"Thing {k} of Ünder"))
    asked_for = ["encoding_format" in one.body for one in server.seen]
    assert asked_for == ([True, False, False, False] if kind == "no base64" else [True] * 3)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("one missing", "there are 9 vectors of 10 texts; that of text 9 is missing"),
        ("one longer", "the vector of text 9 has 9 numbers in place of"),
        ("nan", "is zero or not finite"),
        ("zeros", "is zero or not finite"),
        ("null", "the vector of text 9 is none"),
        ("twice", "the vector of text 0, counted from 0 to 9, was not asked for once"),
        ("key", "the vector of text 9 is none"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused_and_asked_for_again(items, tmp_path, kind, said):
    ten = items.iloc[:10]
    with ScoringServer([kind]) as server:
        result = embed(ten, out=tmp_path, base_url=server.base_url)
        assert len(server.seen) == 2
        assert result.complete
    with sqlite3.connect(tmp_path / "v.ledger.sqlite") as connection:
        (error,) = connection.execute("SELECT error FROM answers WHERE status = 'failed'").fetchone()
    assert said in error or kind == "one longer" and "numbers in place of 9" in error  # they come in any order
    assert KEY.encode() not in (tmp_path / "v.ledger.sqlite").read_bytes()


def test_one_bad_text_does_not_cost_the_others_of_its_batch(items, tmp_path, capsys):
    def plan(number, body):
        return "nan" if body["input"][-1] == "Thing 9 of Ünder" else None

    with ScoringServer(plan) as server, pytest.warns(IncompleteWarning, match="1 ids have no vector"):
        result = embed(items, out=tmp_path, base_url=server.base_url, attempts=1)
    assert result.table["id"].tolist() == [f"i{k}" for k in range(N_ITEMS) if k != 9]
    assert len(server.seen) == 3 + 10
    assert main(["ledger", "failures", str(tmp_path / "v.ledger.sqlite")]) == 0
    assert "is zero or not finite" in capsys.readouterr().out


@pytest.mark.parametrize("n_items", [7, N_ITEMS])  # all of one batch, the only one; one of three
def test_a_batch_is_refused_for_one_of_its_texts(items, tmp_path, n_items):
    said = {"error": {"message": "This model's maximum context length is 8192 tokens.", "code": "x"}}

    def plan(number, body):
        return (400, said) if "Thing 3 of Ünder" in body["input"] else None

    with ScoringServer(plan) as server:
        given = {"base_url": server.base_url, "out": tmp_path}
        with pytest.warns(IncompleteWarning):
            result = embed(items.iloc[:n_items], **given)
        assert result.table["id"].tolist() == [f"i{k}" for k in range(n_items) if k != 3]
        assert (result.asked.summary.refused, result.complete) == (1, False)
        assert "Shorten the texts" not in repr(result)  # of what the server said, the ledger has the reason
        seen = len(server.seen)
        more = pd.concat([items.iloc[:n_items], pd.DataFrame({"item_id": ["new"], "title": ["A new one"]})])
        with pytest.warns(IncompleteWarning):
            result = embed(more, **given)
        assert [one.body["input"] for one in server.seen[seen:]] == [["A new one"]]
        assert len(result.table) == n_items


def test_a_server_that_takes_no_batches_is_told_of_with_the_remedy(items, tmp_path):
    many = pd.DataFrame({"item_id": range(100), "title": [f"Thing {k}" for k in range(100)]})
    said = {"error": {"message": "input is too large: batch size 2 > maximum allowed batch size 1"}}
    with (
        ScoringServer(lambda number, body: (413, said) if len(body["input"]) > 1 else None) as server,
        pytest.raises(ScoringStoppedError, match="a smaller --batch-size"),
    ):
        embed(many, out=tmp_path, base_url=server.base_url, batch_size=2)
    assert len(server.seen) < 40
    with ScoringServer(lambda number, body: (413, said) if len(body["input"]) > 1 else None) as server:
        assert embed(many, out=tmp_path, base_url=server.base_url, batch_size=1).complete


def test_vectors_of_several_lengths_are_not_of_one_model(items, tmp_path):
    with (
        ScoringServer([None, "all longer"]) as server,
        pytest.raises(DataError, match="vectors of 8 numbers and then of 9, so they are not of one model"),
    ):
        embed(items, out=tmp_path, base_url=server.base_url, concurrency=1)
    assert len(server.seen) == 2
    with (
        ScoringServer(lambda number, body: "all longer") as server,
        pytest.raises(DataError, match="not one of 5 texts has a vector"),
    ):
        embed(items.iloc[:5], out=tmp_path, base_url=server.base_url, dimensions=4, attempts=1, batch_size=5)


def test_what_stops_a_run(items, tmp_path):
    for plan, error, said in (
        (["401"], ScoringStoppedError, "OPENAI_API_KEY"),
        (["404"], ScoringStoppedError, "Check --model"),
        (lambda number, body: "no list", ScoringStoppedError, "not a list of vectors"),
        (lambda number, body: (200, "<html>Welcome to the portal</html>"), ScoringStoppedError, "."),
    ):
        with ScoringServer(plan) as server, pytest.raises(error, match=said) as told:
            embed(items, out=tmp_path, base_url=server.base_url, retries=1)
        assert KEY not in str(told.value)
    assert not (tmp_path / "v.parquet").exists()


def test_busy_servers_are_waited_for(items, tmp_path):
    with ScoringServer([None, "500", "429:0.01"]) as server:
        result = embed(items, out=tmp_path, base_url=server.base_url, concurrency=1)
    assert len(server.seen) == 5
    assert len(result.table) == N_ITEMS


def test_a_dry_run_sends_and_writes_nothing_and_knows_the_ledger(items, tmp_path, capsys):
    with ScoringServer() as server:
        given = {"base_url": server.base_url, "out": tmp_path}
        all_of_it = embed(items, dry_run=True, **given)
        assert not server.seen
        assert not list(tmp_path.iterdir())
        embed(items.iloc[:20], **given)
        rest = embed(items, dry_run=True, **given)
        assert len(server.seen) == 2
    assert (all_of_it.requests, rest.requests) == (3, 1)
    parts = [estimated([f"Thing {k} of Ünder" for k in part]) for part in (range(10), range(10, 20), range(20, 25))]
    assert (all_of_it.prompt_tokens, rest.prompt_tokens) == (sum(parts), parts[-1])
    assert rest.cost == pytest.approx(rest.prompt_tokens * 0.02 / 1e6)
    assert rest.completion_tokens == 0
    assert "20 of 25 texts have a vector in the ledger" in str(rest)


def estimated(texts):
    """A token for 3.5 ASCII characters of a batch, rounded up, one for any other, four a text."""
    ascii_characters = sum(len(text.encode("ascii", "ignore")) for text in texts)
    return -(-ascii_characters * 2 // 7) + len(texts) * (1 + 4)


def test_a_cap_on_the_cost_is_kept(items, tmp_path):
    with ScoringServer() as server:
        given = {"base_url": server.base_url, "out": tmp_path}
        one_batch = estimated([f"Thing {k} of Ünder" for k in range(10)]) * 0.02 / 1e6
        with pytest.warns(IncompleteWarning):
            result = embed(items, max_cost=one_batch * 1.2, concurrency=1, **given)
        assert result.asked.summary.stopped == "max_cost"
        assert len(server.seen) == 1
        assert len(result.table) == 10
        assert result.cost <= one_batch * 1.2
        assert result.complete  # what the cap leaves out is no failure
        assert len(embed(items, **given).table) == N_ITEMS
        assert set(server.answered.values()) == {1}
        with pytest.raises(PriceError, match="the price of mine is not known"):
            embed(items, model="mine", max_cost=1, **given)


def test_tokens_a_minute_count_no_completion(items, tmp_path):
    """An answer without a limit would count 1,000 tokens, and these three requests take minutes."""
    with ScoringServer() as server:
        embed(items, out=tmp_path, base_url=server.base_url, tokens_per_minute=6000)
    assert server.seen[-1].time - server.seen[0].time < 10


def test_a_server_that_drops_the_ends_of_texts_is_told_of(tmp_path):
    long = pd.DataFrame({"item_id": [1, 2], "title": ["word " * 200, "word " * 300]})

    class Short(ScoringServer):
        async def _embed(self, request):
            response = await super()._embed(request)
            body = json.loads(response.text) | {"usage": {"prompt_tokens": 20}}
            return type(response)(text=json.dumps(body), content_type="application/json")

    with Short() as server, pytest.warns(PromptCutWarning, match="it has dropped the ends of some"):
        embed(long, out=tmp_path, base_url=server.base_url)


def test_what_cannot_be_embedded_is_refused_before_anything_is_asked(items, texts, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="nothing to embed"):
        embed(out=tmp_path)
    with pytest.raises(DataError, match="no column of texts beside 'item_id'"):
        embed(items[["item_id"]], out=tmp_path)
    with pytest.raises(DataError, match="no item has a text"):
        embed(items.assign(title=" "), out=tmp_path)
    with pytest.raises(DataError, match="has no column 'kind'"):
        embed(items, items, out=tmp_path)
    with pytest.raises(ConfigError, match="extra_body must not hold dimensions: --dimensions sets it"):
        embed(items, out=tmp_path, extra_body={"dimensions": 3})
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        embed(items, out=tmp_path, batch_size=0)
    with pytest.raises(DataError, match="would be lost"):
        embed_texts(tmp_path / "v.parquet", out=tmp_path / "v.parquet")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ServerError, match="there is no key"):
        embed(items, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_does_what_the_function_does(items, texts, tmp_path, capsys):
    items.to_csv(tmp_path / "items.csv", index=False)
    texts.to_parquet(tmp_path / "t.parquet")
    files = ["--items", str(tmp_path / "items.csv"), "--texts", str(tmp_path / "t.parquet")]
    with ScoringServer() as server:
        flags = ["--base-url", server.base_url, "--dimensions", "5", "--batch-size", "6"]
        assert main(["embed", *files, *flags, "--out", str(tmp_path / "one.parquet")]) == 0
        told = capsys.readouterr().out
        result = embed(items, texts, out=tmp_path, base_url=server.base_url, dimensions=5)
        assert main(["embed", *files, *flags, "--out", str(tmp_path / "one.parquet"), "--dry-run"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet"), pd.read_parquet(result.path))
    assert "vectors of 5 numbers of 25 items and 4 users" in told
    assert "29 of 29 texts have a vector in the ledger" in capsys.readouterr().out
    assert main(["ledger", "stats", str(tmp_path / "one.ledger.sqlite")]) == 0
    assert "embedding" in capsys.readouterr().out


def test_every_setting_is_a_flag_with_the_same_default():
    parser = argparse.ArgumentParser()
    embed_command.add(parser)
    flags = {action.dest: action.default for action in parser._actions}
    settings = {field.name: field.default for field in dataclasses.fields(EmbedSettings)}
    assert {name: flags[name] for name in settings} == settings
    assert flags.keys() - settings.keys() == {"help", "items", "texts", "out", "dry_run"}


def test_packed_vectors_come_back_to_the_bit():
    matrix = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    data = [{"index": k, "embedding": matrix[k].tolist()} for k in (3, 1, 4, 0, 2)]
    np.testing.assert_array_equal(unpacked(packed(data), 5), matrix)
    without = [{"embedding": row.tolist()} for row in matrix]
    np.testing.assert_array_equal(unpacked(packed(without), 5, dimensions=7), matrix)
    with pytest.raises(AnswerError, match="has 7 numbers in place of 8"):
        unpacked(packed(data), 5, dimensions=8)
    with pytest.raises(AnswerError, match="there are 5 vectors of 6 texts; that of text 5 is missing"):
        unpacked(packed(data), 6)
    with pytest.raises(AnswerError, match="text 4, counted from 0 to 3"):
        unpacked(packed(data), 4)
    for nothing in (None, 3, "no base64!", "AAA=", [], [[1.0]], ["a"], {"a": 1}):
        assert packed([{"index": 0, "embedding": nothing}]) == "0 -"
    assert packed([None]) == "0 -"
    assert doctest.testmod(packing).failed == 0


def test_a_ledger_is_shared_with_scores_and_texts(items, tmp_path):
    """Answers of other kinds and versions are no vectors."""
    with ScoringServer() as server:
        embed(items, out=tmp_path, base_url=server.base_url)
        with Ledger(tmp_path / "v.ledger.sqlite") as ledger:
            (answer, *_) = ledger.of_kind("text-embedding-3-small", "embedding")
            for key, change in (("a", {"kind": "item"}), ("b", {"schema_version": 0, "texts_sha256": ["x"]})):
                other = dataclasses.replace(answer, key=key, request=answer.request | change, response="0 -")
                ledger.record(other).result()
        assert embed(items, out=tmp_path, base_url=server.base_url).asked.summary.asked == 0


def test_tables_of_vectors_that_cannot_be_read(tmp_path):
    frame = pd.DataFrame({"kind": ["item", "user"], "id": ["1", "2"], "vector": [[1.0, 2.0], [1.0]]})
    with pytest.raises(VectorsError, match="vectors of users have 1 numbers and those of items 2"):
        Vectors.read(frame)
    with pytest.raises(VectorsError, match="no row of kind 'item'"):
        Vectors.read(frame.iloc[1:])
    wide = pd.DataFrame({"kind": ["item"], "id": [7], "a": [1.0], "b": [2.0]})
    np.testing.assert_array_equal(Vectors.read(wide).items.matrix, [[1.0, 2.0]])
