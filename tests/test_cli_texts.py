"""`sllmr texts`, called in process against a server on loopback that writes texts, well and badly."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.knowledge import CURecAdaptor, LLMCFAdaptor
from sllmr_plugin.knowledge.texts import KINDS as TABLE_KINDS
from sllmr_plugin.knowledge.texts import TextTable
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring.batch import run_batches
from sllmr_plugin.scoring.client import Completion
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.ledger_file import LedgerReader
from sllmr_plugin.scoring.text_questions import TextQuestions, TextTemplate
from sllmr_plugin.scoring.text_requests import DEFAULT_KINDS, KINDS, plan_texts

from .scoring_server import ScoringServer, text_of

KEY = "sk-test-SECRETKEY-0123456789"
N_USERS, N_ITEMS = 20, 30


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Arguments that name interactions, items and a place for the table."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)
    rng = np.random.default_rng(0)
    pairs = [(user, int(item)) for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[: 4 + user % 4]]
    pd.DataFrame(pairs, columns=["user_id", "item_id"]).to_csv(tmp_path / "clicks.csv", index=False)
    items = {"item_id": range(N_ITEMS), "title": [f"Thing {k} of Ünder" for k in range(N_ITEMS)], "category": "things"}
    pd.DataFrame(items).to_csv(tmp_path / "items.csv", index=False)
    data = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    return [*data, "--out", str(tmp_path / "texts.parquet")]


@pytest.fixture
def server():
    with ScoringServer() as server:
        yield server


def planned(tmp_path, **keywords):
    attributes = pd.DataFrame({"category": ["things"] * N_ITEMS})
    return plan_texts(
        load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv"), attributes=attributes, **keywords
    )


def expected(requests):
    """What the server writes, worked out from the prompts alone."""
    return {(one.kind, str(one.id)): text_of(TextTemplate(one.kind).render(one)) for one in requests}


def texts_in(path):
    frame = pd.read_parquet(path)
    return dict(zip(zip(frame["kind"], frame["id"], strict=True), frame["text"], strict=True))


def test_a_table_comes_out_with_its_origin_and_more_users_ask_only_what_is_new(files, server, tmp_path, capsys):
    arguments = ["texts", *files, "--model", "tiny", "--base-url", server.base_url]
    assert main([*arguments, "--users", "5"]) == 0
    few = expected(planned(tmp_path, users=5))
    assert texts_in(tmp_path / "texts.parquet") == few
    assert len(server.seen) == 5 + N_ITEMS
    schema = server.seen[0].body["response_format"]["json_schema"]
    assert schema["strict"]
    assert schema["schema"]["properties"] == {"text": {"type": "string"}}
    capsys.readouterr()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{5 + N_ITEMS} taken from the ledger, {N_USERS - 5} answers received" in out
    assert "price of tiny is not known" in out
    assert len(server.seen) == N_USERS + N_ITEMS
    assert max(server.answered.values()) == 1
    assert texts_in(tmp_path / "texts.parquet") == expected(planned(tmp_path))
    metadata = read_metadata(tmp_path / "texts.parquet")
    assert (metadata["writer"], metadata["model"], metadata["kind"]) == ("openai", "tiny", "user,item")
    assert metadata["prompt_hash"] == {kind: TextTemplate(kind).prompt_hash for kind in DEFAULT_KINDS}
    assert pd.read_parquet(tmp_path / "texts.parquet").columns.tolist() == ["kind", "id", "text"]
    assert metadata["created"]
    with LedgerReader(tmp_path / "texts.ledger.sqlite") as reader:
        counted = reader.connection.execute("SELECT sum(prompt_tokens), sum(completion_tokens) FROM answers").fetchone()
    assert metadata["tokens"] == {"prompt": counted[0], "completion": counted[1]}
    assert metadata["cost"] is None


def test_the_text_table_reads_what_was_written(files, server, tmp_path):
    assert KINDS == TABLE_KINDS
    assert main(["texts", *files, "--base-url", server.base_url]) == 0
    data = load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv")
    table = TextTable.read(tmp_path / "texts.parquet", user_index=data.user_index, item_index=data.item_index)
    assert (table.coverage.n_users, table.coverage.n_items, table.coverage.dropped) == (N_USERS, N_ITEMS, {})
    assert "Thing 3 of Ünder" in table.items[data.item_index[3]]
    assert table.origin["model"] == "gpt-4o-mini"
    assert table.origin["cost"] > 0


def test_reasoning_is_asked_for_beside_the_others_and_read_by_llm_cf(files, server, tmp_path, capsys):
    arguments = ["texts", *files, "--base-url", server.base_url]
    assert main(arguments) == 0
    n_seen = len(server.seen)
    told = [*arguments, "--kind", "user,reasoning,item"]
    assert main([*told, "--exemplars", "8", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"{n_seen + 16} requests, {n_seen} of them answered in the ledger" in out
    assert [found in out for found in ("You describe the", "You state facts", "You explain what")] == [True] * 3
    assert len(server.seen) == n_seen
    assert main([*told, "--exemplars", "8"]) == 0
    assert len(server.seen) == n_seen + 16, "users and items are paid for already"
    out = capsys.readouterr().out
    assert "reasoning about 16 of 16 exemplars: 8 positive, 8 negative" in out
    assert main([*told, "--exemplars", "12"]) == 0
    assert len(server.seen) == n_seen + 24
    requests = planned(tmp_path, kinds=["reasoning"], exemplars=12).exemplars
    want = {
        (str(one.id), str(one.exemplar.item_id), one.exemplar.label): text_of(TextTemplate("reasoning").render(one))
        for one in requests
    }
    frame = pd.read_parquet(tmp_path / "texts.parquet")
    assert frame["kind"].tolist() == ["user"] * N_USERS + ["item"] * N_ITEMS + ["reasoning"] * 24
    rows = frame[frame["kind"] == "reasoning"]
    assert dict(zip(zip(rows["id"], rows["item_id"], rows["label"], strict=True), rows["text"], strict=True)) == want
    assert frame.loc[frame["kind"] != "reasoning", ["item_id", "label"]].isna().all(axis=None)
    metadata = read_metadata(tmp_path / "texts.parquet")
    assert (metadata["kind"], metadata["settings"]["exemplars"]) == ("user,item,reasoning", 12)
    assert metadata["counts"]["taken"] == metadata["counts"]["not_taken"] == 12
    assert metadata["prompt_hash"].keys() == {*DEFAULT_KINDS, "reasoning"}

    data = load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv")
    table = TextTable.read(tmp_path / "texts.parquet", user_index=data.user_index, item_index=data.item_index)
    x, y = training_rows(data)
    adaptor = LLMCFAdaptor(table, x, y, user="user_id", item="item_id")
    assert "12 positive and 12 negative exemplars, with reasoning" in repr(adaptor)
    capsys.readouterr()
    assert main(["ledger", "stats", str(tmp_path / "texts.ledger.sqlite")]) == 0
    assert "gpt-4o-mini, reasoning about exemplars: 24 answers, 24 usable" in capsys.readouterr().out


def test_patterns_and_reasons_are_asked_for_and_read_by_curec(files, server, tmp_path, capsys):
    """More reasons an item pay only for the new ones, as after any interruption; the table is what the prompts make."""
    arguments = ["texts", *files, "--base-url", server.base_url, "--kind", "pattern,reason"]
    assert main([*arguments, "--reasons-per-item", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert [found in out for found in ("You describe the pattern", "You say why a user")] == [True] * 2
    assert not server.seen
    one = planned(tmp_path, kinds=["pattern", "reason"], reasons_per_item=1)
    assert main([*arguments, "--reasons-per-item", "1"]) == 0
    assert len(server.seen) == N_USERS + len(one.reasons)
    assert len({request.exemplar.item_id for request in one.reasons}) == len(one.reasons) <= N_ITEMS
    capsys.readouterr()
    assert main([*arguments, "--reasons-per-item", "2"]) == 0
    two = planned(tmp_path, kinds=["pattern", "reason"], reasons_per_item=2)
    assert len(server.seen) == N_USERS + len(two.reasons) > N_USERS + len(one.reasons)
    assert max(server.answered.values()) == 1
    out = capsys.readouterr().out
    assert f"patterns: {N_USERS} of {N_USERS}\nreasons: {len(two.reasons)} of {len(two.reasons)}" in out
    frame = pd.read_parquet(tmp_path / "texts.parquet")
    assert frame["kind"].tolist() == ["pattern"] * N_USERS + ["reason"] * len(two.reasons)
    rows = frame[frame["kind"] == "reason"]
    assert rows["label"].eq(1).all()
    want = {
        (str(request.id), str(request.exemplar.item_id)): text_of(TextTemplate("reason").render(request))
        for request in two.reasons
    }
    assert dict(zip(zip(rows["id"], rows["item_id"], strict=True), rows["text"], strict=True)) == want
    metadata = read_metadata(tmp_path / "texts.parquet")
    assert metadata["settings"]["reasons_per_item"] == 2
    assert (metadata["counts"]["patterns"], metadata["counts"]["reasons"]) == (N_USERS, len(two.reasons))
    assert (metadata["counts"]["taken"], metadata["counts"]["users_asked"]) == (0, 0)
    assert metadata["prompt_hash"].keys() == {"pattern", "reason"}

    data = load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv")
    table = TextTable.read(tmp_path / "texts.parquet", user_index=data.user_index, item_index=data.item_index)
    adaptor = CURecAdaptor(table, *training_rows(data), user="user_id", item="item_id")
    assert sorted(adaptor.texts) == sorted(want.values())
    capsys.readouterr()
    assert main(["ledger", "stats", str(tmp_path / "texts.ledger.sqlite")]) == 0
    stats = capsys.readouterr().out
    assert f"reasons of interactions: {len(two.reasons)} answers" in stats
    assert f"patterns of users: {N_USERS} answers" in stats


@pytest.mark.filterwarnings("default")
def test_unusable_answers_are_asked_again_with_the_error_and_then_recorded(files, tmp_path, capsys):
    bad = ["garbage", "refusal", "declined", "blank", "empty", "too long", "cut off"]

    def plan(number, body):
        item = re.search(r'"title": "Thing (\d+) of', body["messages"][1]["content"])
        again = len(body["messages"]) > 2
        if int(item[1]) == 9:
            return "refusal"  # for ever
        return bad[int(item[1])] if int(item[1]) < len(bad) and not again else None

    with ScoringServer(plan) as server:
        arguments = ["texts", *files, "--kind", "item", "--base-url", server.base_url]
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert "not every request was answered" in err
        assert f"texts of 0 of 0 users and {N_ITEMS - 1} of {N_ITEMS} items" in out
        assert len(server.seen) == N_ITEMS + len(bad) + 2
        complaints = {
            re.search(r"Thing (\d+)", seen.body["messages"][1]["content"])[1]: seen.body["messages"][-1]["content"]
            for seen in server.seen
            if len(seen.body["messages"]) > 2
        }
        for number, words in enumerate(
            ["no complete text", "speaks of yourself", "a refusal", "is empty", "is empty", "2999 char", "was cut off"]
        ):
            assert words in complaints[str(number)], bad[number]
        assert main(arguments) == 0
        assert len(server.seen) == N_ITEMS + len(bad) + 2, "a failed text is not paid for again"
    want = expected(planned(tmp_path, kinds=["item"]))
    found = texts_in(tmp_path / "texts.parquet")
    assert found == {key: text for key, text in want.items() if key != ("item", "9")}
    ledger = str(tmp_path / "texts.ledger.sqlite")
    capsys.readouterr()
    assert main(["ledger", "stats", ledger]) == 0
    usable, unusable = N_ITEMS - 1, len(bad) + 3
    stats = capsys.readouterr().out
    assert f"gpt-4o-mini, texts of items: {usable + unusable} answers, {usable} usable, {unusable} not" in stats
    assert main(["ledger", "failures", ledger]) == 0
    failed = capsys.readouterr().out
    assert "1 requests without a usable answer" in failed
    assert "item 9, repeat 0, gpt-4o-mini, 3 attempts" in failed
    assert "I'm sorry" in failed
    assert main(["ledger", "export", ledger, "--out", str(tmp_path / "a.jsonl")]) == 0
    exported = pd.read_json(tmp_path / "a.jsonl", lines=True)
    assert exported["kind"].tolist() == ["item"] * (usable + unusable)
    assert (exported["status"] == "ok").sum() == usable
    read = read_metadata(tmp_path / "texts.parquet")
    with Ledger(ledger) as open_ledger:
        assert read["cost"] == pytest.approx(open_ledger.spent(), abs=1e-6)  # what failed was paid for too


def test_texts_are_data_and_a_server_without_structured_output_will_do(files, tmp_path):
    ways = ["plain", "prose", "markup", "controls", "surrogate"]
    with ScoringServer(lambda number, body: ways[number % 5], refuses_formats=("json_schema", "json_object")) as server:
        assert main(["texts", *files, "--kind", "item", "--base-url", server.base_url]) == 0
        assert "response_format" not in server.seen[-1].body
    want = expected(planned(tmp_path, kinds=["item"]))
    found = texts_in(tmp_path / "texts.parquet")
    forms = {key: text.replace(want[key], "{}") for key, text in found.items()}
    assert found.keys() == want.keys()
    # Of an escape sequence the text is left, of half a character a question mark.
    assert set(forms.values()) == {"{}", "<script>alert(1)</script> {}", "[31m{}\nEnd.", "{}?"}


def test_a_dry_run_sends_nothing_and_the_cap_holds(files, server, tmp_path, capsys):
    arguments = ["texts", *files, "--base-url", server.base_url]
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"to be asked: {N_USERS + N_ITEMS}" in out
    assert "You describe the preferences" in out
    assert '"category": "things"' in out  # one prompt of each kind
    prompt, completion = (int(re.search(rf"(\d+) {kind} tokens", out)[1]) for kind in ("prompt", "completion"))
    assert completion == 160 * (N_USERS + N_ITEMS)
    assert float(re.search(r"about \$([\d.]+)", out)[1]) == pytest.approx(
        (0.15 * prompt + 0.6 * completion) / 1e6, abs=1e-4
    )
    assert not server.seen
    assert not list(tmp_path.glob("*.sqlite*"))


@pytest.mark.filterwarnings("default")
def test_the_cap_leaves_texts_of_both_kinds(files, server, tmp_path, capsys):
    assert main(["texts", *files, "--base-url", server.base_url, "--max-cost", "0.002"]) == 0
    out, err = capsys.readouterr()
    assert "stopped at --max-cost" in out
    assert "not every request was answered" in err
    frame = pd.read_parquet(tmp_path / "texts.parquet")
    assert 0 < len(frame) < N_USERS + N_ITEMS
    assert set(frame["kind"]) == set(DEFAULT_KINDS)
    assert float(re.search(r"\$([\d.]+) in this ledger", out)[1]) <= 0.002


def test_batches_fill_the_same_ledger(files, server, tmp_path, monkeypatch):
    monkeypatch.setattr("sllmr_plugin.scoring.run.run_batches", functools.partial(run_batches, poll_seconds=0.01))
    arguments = ["texts", *files, "--base-url", server.base_url]
    assert main([*arguments, "--batch"]) == 0
    assert len(server.batches) == 1
    assert texts_in(tmp_path / "texts.parquet") == expected(planned(tmp_path))
    n_seen = len(server.seen)
    assert main(arguments) == 0
    assert len(server.seen) == n_seen


def test_scores_and_texts_share_a_ledger(files, server, tmp_path):
    ledger = ["--ledger", str(tmp_path / "both.sqlite"), "--base-url", server.base_url]
    assert main(["candidates", *files[:4], "--per-user", "4", "--pool", "9", "--out", str(tmp_path / "c.parquet")]) == 0
    score = ["score", "--candidates", str(tmp_path / "c.parquet"), *files[:4], "--out", str(tmp_path / "s.parquet")]
    assert main([*score, *ledger]) == 0
    scores, n_scores = pd.read_parquet(tmp_path / "s.parquet"), len(server.seen)
    assert main(["texts", *files, *ledger]) == 0
    assert len(server.seen) == n_scores + N_USERS + N_ITEMS
    assert main([*score, *ledger]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), scores)
    assert len(server.seen) == n_scores + N_USERS + N_ITEMS
    costs = [read_metadata(tmp_path / name)["cost"] for name in ("s.parquet", "texts.parquet")]
    with Ledger(tmp_path / "both.sqlite") as both:
        assert sum(costs) == pytest.approx(both.spent(), abs=2e-6)


def test_a_text_without_its_end_is_none_even_if_it_can_be_read(files, tmp_path):
    questions = TextQuestions("m")
    question = questions.first(planned(tmp_path).items[0])
    for text in ("A chess set for", '{"text": "A chess set"}'):
        assert questions.read(question, Completion(text, 300, 4), None).ok
        answer = questions.read(question, Completion(text, 300, 4, cut_off=True), None)
        assert answer.error.startswith("the answer was cut off after 4 tokens: be brief.")


def test_items_with_the_very_same_words_are_asked_about_and_paid_for_once(files, server, tmp_path):
    titles = ["Chess set"] * 12 + [f"Thing {k}" for k in range(N_ITEMS - 12)]
    pd.DataFrame({"item_id": range(N_ITEMS), "title": titles}).to_csv(tmp_path / "items.csv", index=False)
    assert main(["texts", *files, "--kind", "item", "--base-url", server.base_url]) == 0
    assert len(server.seen) == N_ITEMS - 11
    texts = texts_in(tmp_path / "texts.parquet")
    assert len(texts) == N_ITEMS
    assert len({texts["item", str(item)] for item in range(12)}) == 1
    with Ledger(tmp_path / "texts.ledger.sqlite") as ledger:
        assert read_metadata(tmp_path / "texts.parquet")["cost"] == pytest.approx(ledger.spent(), abs=1e-6)


def test_titles_need_no_model_and_say_so(files, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main(["texts", *files]) == 2
    assert "--writer titles" in capsys.readouterr().err
    assert main(["texts", *files, "--writer", "titles", "--dry-run"]) == 0
    assert not (tmp_path / "texts.parquet").exists()
    assert main(["texts", *files, "--writer", "titles"]) == 0
    found = texts_in(tmp_path / "texts.parquet")
    assert found["item", "3"] == "Thing 3 of Ünder; category: things"
    assert found["user", "2"] == "; ".join(next(one for one in planned(tmp_path).users if one.id == 2).titles)
    assert len(found) == N_USERS + N_ITEMS
    metadata = read_metadata(tmp_path / "texts.parquet")
    assert (metadata["writer"], metadata["model"], metadata["prompt_hash"]) == ("titles", "no language model", None)
    assert "tokens" not in metadata
    assert not list(tmp_path.glob("*.sqlite*"))
    capsys.readouterr()
    assert main(["texts", *files, "--writer", "titles", "--kind", "reasoning", "--exemplars", "3"]) == 0
    out = capsys.readouterr().out
    assert "No language model reasoned" in out
    assert out.startswith("reasoning about 6 of 6 exemplars")
    frame = pd.read_parquet(tmp_path / "texts.parquet")
    assert frame["text"].str.split(":").str[0].map({"taken": 1, "not taken": 0}).tolist() == frame["label"].tolist()
    assert main(["texts", *files, "--writer", "titles", "--kind", "pattern,reason"]) == 0
    assert "No language model reasoned" in capsys.readouterr().out
    about = planned(tmp_path, kinds=["reason"]).reasons[0]
    frame = pd.read_parquet(tmp_path / "texts.parquet").query("kind == 'reason'")
    mine = frame[(frame["id"] == str(about.id)) & (frame["item_id"] == str(about.exemplar.item_id))]
    assert mine["text"].tolist() == [
        f"taken: {about.exemplar.title}; category: things; beside: {'; '.join(about.titles)}"
    ]


def test_templates_of_ones_own_and_arguments_that_make_no_sense(files, server, tmp_path, capsys):
    (tmp_path / "item.txt").write_text("Facts about $item please. $answer_format")
    common = ["texts", *files, "--base-url", server.base_url]
    assert main([*common, "--kind", "item", "--item-template", str(tmp_path / "item.txt"), "--max-words", "30"]) == 0
    body = server.seen[0].body
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert body["messages"][0]["content"].startswith("Facts about {")
    assert "at most 30 words" in body["messages"][0]["content"]
    assert body["max_tokens"] == 100 + 30 * 4
    hashes = read_metadata(tmp_path / "texts.parquet")["prompt_hash"]
    assert hashes == {"item": TextTemplate.from_file(tmp_path / "item.txt", "item", max_words=30).prompt_hash}
    (tmp_path / "item.txt").write_text("Facts about $items. $answer_format")
    assert main([*common, "--item-template", str(tmp_path / "item.txt")]) == 2
    assert "$items (did you mean $item?)" in capsys.readouterr().err
    (tmp_path / "why.txt").write_text("Why $label $item after $history? $answer_format")
    assert main([*common, "--kind", "reasoning", "--reasoning-template", str(tmp_path / "why.txt")]) == 0
    assert server.seen[-1].body["messages"][0]["content"].startswith("Why the user ")
    assert main([*common, "--attributes", "maker"]) == 2
    assert "'maker'" in capsys.readouterr().err
    for wrong in (["--kind", "story"], ["--users", "0"], ["--writer", "me"]):
        with pytest.raises(SystemExit):
            main([*common, *wrong])
    assert "invalid choice: 'me'" in capsys.readouterr().err


def test_the_python_in_the_documentation_does_what_the_command_does(files, server, tmp_path, monkeypatch):
    assert main(["texts", *files, "--base-url", server.base_url]) == 0
    by_command = texts_in(tmp_path / "texts.parquet")
    (tmp_path / "texts.parquet").unlink()
    documented = (Path(__file__).parent.parent / "docs" / "texts.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    n_seen = len(server.seen)
    exec(re.search(r"```python\n(.*?)```", documented, re.DOTALL)[1], {})
    assert texts_in(tmp_path / "texts.parquet") == by_command
    assert len(server.seen) == n_seen  # the same ledger, the same questions


def test_what_decides_a_text_is_in_its_key(files, tmp_path):
    request = planned(tmp_path).items[0]
    short = {kind: TextTemplate(kind, max_words=60) for kind in KINDS}
    asked = [
        TextQuestions("m"),
        TextQuestions("n"),
        TextQuestions("m", short),
        TextQuestions("m", temperature=1.0),
        TextQuestions("m", max_tokens=None),
    ]
    assert len({questions.first(request).key for questions in asked}) == len(asked)
    assert TextQuestions("m", temperature=0).first(request).key == asked[0].first(request).key
    assert TextQuestions("m", attempts=9).first(request).key == asked[0].first(request).key
    own = [TextTemplate("item", "", f"$item $answer_format{end}", words) for end, words in (("", 10), (" ", 10))]
    first, second = (TextQuestions("m", {"item": template}).first(request) for template in own)
    assert json.dumps(first.messages) == json.dumps(second.messages)
    assert first.key == second.key
