"""Reasons corrected in time order: rewards and order against naive loops, what is asked, kills, and the leak rule."""

import dataclasses
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import CURecAdaptor, ReasonRewards, TextTable, augment, correct_reasons
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, DataError, EvaluationError, IncompleteWarning, ScoringStoppedError
from sllmr_plugin.knowledge import EncodedTexts
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring.corrections import plan_corrections
from sllmr_plugin.scoring.ledger_file import LedgerReader
from sllmr_plugin.scoring.text_questions import TextTemplate
from sllmr_plugin.scoring.text_requests import Exemplar, TextRequest
from sllmr_plugin.zoo.deepctr import build_model, input_rows

from .scoring_server import ScoringServer

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")
N_USERS, N_ITEMS = 7, 6  # the items of training; as many again are held out alone
WORDS = ["sea", "forest", "stars", "chess", "novel", "kettle", "tent", "paper"]
NO_PATTERN = 5  # code
IDS = {"user": "user_id", "item": "item_id"}
N = 3


def clicks():
    """Users with two to five training items, two held out from a catalogue part of their own."""
    rng = np.random.default_rng(4)
    rows = []
    for user in range(N_USERS):
        for item in rng.permutation(N_ITEMS)[: 2 + user % 4]:
            rows.append((f"u{user}", f"i{item}", "train"))
        rows += [(f"u{user}", f"i{N_ITEMS + user % N_ITEMS}", "valid"), (f"u{user}", f"i{N_ITEMS}", "test")]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "split"]).drop_duplicates(["user_id", "item_id"])


def catalogue():
    titles = [f"Thing {k}" if k < N_ITEMS else f"Secret {k}" for k in range(2 * N_ITEMS)]
    return pd.DataFrame({"item_id": [f"i{k}" for k in range(2 * N_ITEMS)], "title": titles, "category": "things"})


def interactions():
    return load_interactions(clicks(), catalogue())


def text_frame():
    """A reason for five of six training interactions, in no order, and one about a held-out one; patterns."""
    data = interactions()
    rng = np.random.default_rng(7)
    pairs = [pair for k, pair in enumerate(data.train[["user", "item"]].to_numpy().tolist()) if k % 6 != 5]
    pairs = [pairs[k] for k in rng.permutation(len(pairs))] + [data.test[["user", "item"]].to_numpy().tolist()[0]]
    rows = [
        ("reason", data.user_ids[user - 1], " ".join(rng.choice(WORDS, 5)), data.item_ids[item - 1], 1)
        for user, item in pairs
    ]
    users = [user for user in range(1, N_USERS + 1) if user != NO_PATTERN]
    rows += [("pattern", data.user_ids[user - 1], " ".join(rng.choice(WORDS, 3)), None, None) for user in users]
    rows += [("item", "i1", "a thing of note", None, None)]
    return pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"])


def read(frame):
    data = interactions()
    return TextTable.read(frame, user_index=data.user_index, item_index=data.item_index)


class ByText:
    """Random vectors that depend on the text alone."""

    def encode(self, texts):
        return np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=5) for text in texts])


# ------------------------------------------------------------------------------------------------------- rewards


def random_model(name="deepfm", encoder=None, **options):
    data, table = interactions(), read(text_frame())
    rows = training_rows(data, history_length=3)
    encoded = EncodedTexts.of(table, encoder or ByText())
    adaptor = CURecAdaptor(encoded, *rows, **IDS, dim=4, **options)
    model = build_model(name, data, embedding_dim=4, history_length=3, seed=2, dense=adaptor.widths)
    model = augment(model, adaptor, **IDS)
    torch.manual_seed(3)
    with torch.no_grad():  # as if trained: fresh embeddings hardly tell rows apart
        for parameter in (*model.parameters(), *adaptor.parameters()):
            parameter.normal_(0, 0.5)
    return model, data, table, rows, encoded


def naive_reward(model, rows, encoded, pair, texts, patterns, reason, most=16):
    """Score an interaction by a new adaptor of the texts, in which its reason is nobody's and is in the list."""
    told = encoded.reasons
    plain = ByText().encode(told.texts), ByText().encode(told.pattern_texts)
    texts = {**texts, pair: reason}

    def direction(text, among):
        away = ByText().encode([text])[0] - among.mean(axis=0)
        return away / np.sqrt((away**2).mean())

    vectors, positions, owners = [], [], []
    for user, item, text in zip(told.users, told.items, told.texts, strict=True):
        vectors.append(direction(texts.get((user, item), text), plain[0]))
        owners.append(10_000 if (user, item) == pair else user)
        positions.append(0.0)
    of_patterns = [
        direction(patterns.get(user, text), plain[1])
        for user, text in zip(told.patterns.codes["user"], told.pattern_texts, strict=True)
    ]
    reasons = dataclasses.replace(
        told,
        users=np.array(owners),
        vectors=np.array(vectors, dtype=np.float32),
        patterns=dataclasses.replace(told.patterns, vectors={"user": np.array(of_patterns, dtype=np.float32)}),
    )
    x, y = rows
    # A training row of the made-up owner, or its reason would be left out.
    x = {**x, "user_id": np.append(x["user_id"], 10_000), "item_id": np.append(x["item_id"], pair[1])}
    other = CURecAdaptor(dataclasses.replace(encoded, reasons=reasons), x, np.append(y, 1), **IDS, dim=4, most=99)
    other.load_state_dict(model.augmentation.adaptor.state_dict())
    if most < 99:  # the list of the trained one and the reason itself
        of_item = [k for k, item in enumerate(told.items[_kept(told, rows)]) if item == pair[1]]
        mine = model.augmentation.adaptor.reasons
        seen = set(mine.lists[mine.rows(torch.tensor([pair[1]]))[0]].tolist())
        number = list(zip(told.users, told.items, strict=True))
        kept = [number[k] for k in np.flatnonzero(_kept(told, rows))]
        hidden = [k for k in of_item if k not in seen and kept[k] != pair]
    else:
        hidden = []
    row = next(k for k in range(len(y)) if (rows[0]["user_id"][k], rows[0]["item_id"][k]) == pair and y[k] == 1)
    own, model.augmentation.adaptor = model.augmentation.adaptor, other
    with other.reasons.without(hidden):
        score = float(model.predict({name: column[row : row + 1] for name, column in rows[0].items()})[0, 0])
    model.augmentation.adaptor = own
    return score


def _kept(told, rows):
    x, y = rows
    taken = {(u, i) for u, i, label in zip(x["user_id"], x["item_id"], y, strict=True) if label == 1}
    return np.array([pair in taken for pair in zip(told.users, told.items, strict=True)])


def raw(pair):
    return f"u{pair[0] - 1}", f"i{pair[1] - 1}"


@pytest.mark.parametrize(("name", "most"), [("deepfm", 16), ("din", 16), ("deepfm", 1)])
def test_rewards_are_the_models_scores_with_the_reason_in_the_list_and_shown(name, most):
    model, data, table, rows, encoded = random_model(name, most=most)
    before = model.predict(input_rows(model, rows[0]))
    rewards = ReasonRewards(model, data, table, encoder=ByText())
    kept = table.reasons[_kept(encoded.reasons, rows)]
    pairs = list(zip(kept["user"].tolist(), kept["item"].tolist(), strict=True))
    texts, patterns, found = {}, {}, set()
    candidates = ["of the sea", "for chess, at night", "kettle kettle"]
    for step, pair in enumerate(pairs):
        vectors = rewards._adaptor.reasons.vectors.clone()
        given = rewards.rewards(*raw(pair), candidates)
        assert torch.equal(rewards._adaptor.reasons.vectors, vectors)  # asked, not kept
        expected = [naive_reward(model, rows, encoded, pair, texts, patterns, text, most) for text in candidates]
        assert given == pytest.approx(expected, abs=1e-5)
        found |= set(given)
        assert rewards.rewards(*raw(pair), candidates) == given  # nothing is left behind
        texts[pair] = candidates[step % 3]
        rewards.keep(*raw(pair), texts[pair])
        if pair[0] != NO_PATTERN:
            patterns[pair[0]] = f"pattern {step}"
            rewards.update(raw(pair)[0], patterns[pair[0]])
    assert len(found) > len(pairs)
    np.testing.assert_array_equal(model.predict(input_rows(model, rows[0])), before)
    # Neither the model nor the copy shows a user a reason about that user.
    for adaptor in (model.augmentation.adaptor, rewards._adaptor):
        for number, (user, item) in enumerate(pairs):
            numbers, there = adaptor.reasons.seen(torch.tensor([user]), torch.tensor([item]))
            assert number not in numbers[there].tolist()


def test_texts_are_encoded_by_what_was_fitted_on_the_table():
    """The reward of the reason that the table has is that of its own vector."""
    from sllmr_plugin import TfidfSvdEncoder

    model, data, table, rows, encoded = random_model(encoder=TfidfSvdEncoder(dim=6))
    rewards = ReasonRewards(model, data, table, encoder=TfidfSvdEncoder(dim=6))
    kept = table.reasons[_kept(encoded.reasons, rows)].reset_index(drop=True)
    vectors = rewards._vectors("reason", kept["text"].tolist())
    torch.testing.assert_close(vectors, model.augmentation.adaptor.reasons.vectors[:-1], atol=1e-3, rtol=0)
    with pytest.raises(EvaluationError, match="encoded otherwise"):
        ReasonRewards(model, data, table, encoder=other_encoder(vectors.shape[1]))
    other = read(text_frame().assign(text=lambda frame: "other " + frame["text"]))
    with pytest.raises(EvaluationError, match="other reasons"):
        ReasonRewards(model, data, other, encoder=TfidfSvdEncoder(dim=6))
    with pytest.raises(EvaluationError, match="no reason about user 'u0' and item 'i11'"):
        rewards.rewards("u0", "i11", ["a text"])
    with pytest.raises(EvaluationError, match=f"user 'u{NO_PATTERN - 1}' has no pattern"):
        rewards.update(f"u{NO_PATTERN - 1}", "a text")
    with pytest.raises(EvaluationError, match="a Linear without reasons"):
        ReasonRewards(torch.nn.Linear(1, 1), data, table)


def other_encoder(width):
    return SimpleNamespace(
        encode=lambda texts: np.stack([np.random.default_rng(len(text)).normal(size=width) for text in texts])
    )


# ---------------------------------------------------------------------------------------- what is asked, and kept


class Judge:
    """Rewards by hash of all that may matter: the user's pattern and the item's list as they are at that moment."""

    def __init__(self, table, fails_at=None):
        self.lists, self.patterns, self.calls, self.fails_at = {}, {}, 0, fails_at
        for one in table.reasons.itertuples():
            self.keep(f"u{one.user - 1}", f"i{one.item - 1}", one.text)
        for user, text in table.patterns.items():
            self.update(f"u{user - 1}", text)

    def rewards(self, user, item, reasons):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("killed")
        state = self.patterns.get(user), sorted(self.lists[item].items())
        return [zlib.crc32(repr((user, reason, state)).encode()) / 2**32 for reason in reasons]

    def keep(self, user, item, reason):
        self.lists.setdefault(item, {})[user] = reason

    def update(self, user, pattern):
        self.patterns[user] = pattern


def written(messages, number):
    """What the server writes when it is asked something for the number-th time."""
    return f"Text {zlib.crc32(json.dumps(messages).encode())}, version {number} of it."


class Writer:
    """A plan for `ScoringServer`: other words each time; stops answering at some request."""

    def __init__(self, stops_at=None):
        self.asked, self.total, self.stops_at = {}, 0, stops_at

    def __call__(self, number, body):
        self.total += 1
        if self.total == self.stops_at:
            return "401"
        key = json.dumps(body["messages"])
        self.asked[key] = self.asked.get(key, 0) + 1
        text = json.dumps({"text": written(body["messages"], self.asked[key])})
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": choices,
            "usage": usage,
        }


def naively(table):
    """Correct one interaction after the other: reasons, patterns, prompts with how often they are asked, rewards."""
    data, judge = interactions(), Judge(table)
    titles = dict(zip(data.item_ids, catalogue()["title"], strict=True))
    train = clicks()[clicks()["split"] == "train"]
    items_of = {user: rows["item_id"].tolist() for user, rows in train.groupby("user_id")}
    old = {(f"u{one.user - 1}", f"i{one.item - 1}"): one.text for one in table.reasons.itertuples()}
    patterns = {f"u{user - 1}": text for user, text in table.patterns.items()}
    reasons, prompts, rewards = {}, {}, {}
    ask = {kind: TextTemplate(kind) for kind in ("reason", "update")}
    for position in range(1, N_ITEMS):
        for user in sorted(items_of):
            if position >= len(items_of[user]) or (user, items_of[user][position]) not in old:
                continue
            item = items_of[user][position]
            exemplar = Exemplar(item, titles[item], 1)
            before = tuple(titles[one] for one in items_of[user][:position])
            shown = (("category", "things"),)
            messages = ask["reason"].render(TextRequest("reason", user, before, shown, exemplar))
            prompts[json.dumps(messages)] = N
            texts = [written(messages, number) for number in range(1, N + 1)]
            found = judge.rewards(user, item, texts)
            reasons[user, item] = texts[int(np.argmax(found))]
            rewards[user, item] = max(found)
            judge.keep(user, item, reasons[user, item])
            if user in patterns:
                request = TextRequest("update", user, (), shown, exemplar, patterns[user], reasons[user, item])
                messages = ask["update"].render(request)
                prompts[json.dumps(messages)] = 1
                patterns[user] = written(messages, 1)
                judge.update(user, patterns[user])
    return reasons, patterns, prompts, rewards


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setattr("sllmr_plugin.scoring.runner.backoff", lambda failures, retry_after=None: retry_after or 0.01)
    prices = "updated: 2026-01-01\nbatch_discount: 0.5\nmodels:\n  m: {prompt: 1.0, completion: 1.0}\n"
    (tmp_path / "prices.yaml").write_text(prices)
    return tmp_path


def correct(place, writer, table, judge=None, **settings):
    with ScoringServer(writer) as server:
        options = {"n": N, "model": "m", "base_url": server.base_url, "verbose": False, "out": place / "out.parquet"}
        return correct_reasons(interactions(), catalogue(), table, judge or Judge(table), **options | settings)


def check_against_naive(place, table, result, writer):
    reasons, patterns, prompts, rewards = naively(table)
    assert writer.asked == prompts  # each as often as it should be, and nothing else
    assert not any("Secret" in prompt for prompt in writer.asked)
    back = read(place / "out.parquet")
    assert len(reasons) > 8
    train = clicks()[clicks()["split"] == "train"]
    taken = zip(train["user_id"], train["item_id"], strict=True)
    place_of = dict(zip(taken, train.groupby("user_id").cumcount(), strict=True))
    for old, new in zip(table.reasons.itertuples(), back.reasons.itertuples(), strict=True):
        pair = f"u{new.user - 1}", f"i{new.item - 1}"
        assert (old.user, old.item) == (new.user, new.item)
        assert new.text == reasons.get(pair, old.text)
        assert (new.version == 1) == (pair in reasons)
        np.testing.assert_equal(new.position, place_of.get(pair, np.nan))
        np.testing.assert_equal(new.reward, rewards.get(pair, np.nan))
    assert {f"u{user - 1}": text for user, text in back.patterns.items()} == patterns
    assert back.items.tolist() == ["a thing of note"]
    assert back.coverage.dropped == {}
    assert result.counts.corrected == result.counts.planned == len(reasons)
    assert (result.counts.outside, result.counts.open, result.counts.failed) == (1, 0, 0)
    assert result.counts.reward == pytest.approx(np.mean(list(rewards.values())))
    assert result.counts.before != result.counts.reward > result.counts.drawn


@pytest.mark.parametrize("concurrency", [1, 8])
def test_it_comes_to_what_one_interaction_after_the_other_comes_to(place, concurrency):
    table, writer = read(text_frame()), Writer()
    result = correct(place, writer, table, concurrency=concurrency)
    check_against_naive(place, table, result, writer)
    origin = read_metadata(place / "out.parquet")
    assert (origin["model"], origin["settings"]["n"], origin["settings"]["temperature"]) == ("m", N, 0.8)
    assert "mean reward" in str(result)


def test_waves_share_neither_user_nor_item_and_keep_the_order():
    data, table = interactions(), read(text_frame())
    plan = plan_corrections(data, table, n_titles=10)
    waves = plan.waves()
    for wave in waves:
        assert len({one.user for one in wave}) == len({one.item for one in wave}) == len(wave)
    place_of = {one: number for number, wave in enumerate(waves) for one in wave}
    for k, one in enumerate(plan.all):
        for other in plan.all[:k]:
            if {one.user, one.item} & {other.user, other.item}:
                assert place_of[other] < place_of[one]
    assert 1 < len(waves) < len(plan.all)


@pytest.mark.parametrize("stops_at", [1, 2, 9, 20, 31, 44])
def test_a_run_that_stops_is_taken_up_and_nothing_is_paid_twice(place, stops_at):
    table, writer = read(text_frame()), Writer(stops_at)
    with pytest.raises(ScoringStoppedError):
        correct(place, writer, table, concurrency=4)
    result = correct(place, writer, table)
    check_against_naive(place, table, result, writer)


@pytest.mark.parametrize("fails_at", [1, 5, 10])
def test_a_run_that_dies_between_answer_and_choice_is_taken_up(place, fails_at):
    table, writer = read(text_frame()), Writer()
    with pytest.raises(RuntimeError, match="killed"):
        correct(place, writer, table, Judge(table, fails_at))
    result = correct(place, writer, table)
    check_against_naive(place, table, result, writer)


def test_a_cap_on_the_cost_leaves_the_rest_as_it_is_and_a_higher_one_goes_on(place):
    table, writer = read(text_frame()), Writer()
    options = {"prices": place / "prices.yaml", "concurrency": 2}
    spent = []
    for cap in (0.004, 0.008):
        with pytest.warns(IncompleteWarning):
            result = correct(place, writer, table, max_cost=cap, **options)
        assert result.asked.summary.stopped == "max_cost"
        with LedgerReader(place / "out.ledger.sqlite") as reader:
            spent.append(reader.connection.execute("SELECT sum(cost) FROM answers").fetchone()[0])
        assert 0 < spent[-1] <= cap
        assert 0 < result.counts.open < result.counts.planned
        assert result.counts.open + result.counts.corrected == result.counts.planned
        assert len(read(place / "out.parquet").reasons) == len(table.reasons)
    assert spent[0] < spent[1]
    check_against_naive(place, table, correct(place, writer, table, max_cost=1.0, **options), writer)


def test_unusable_answers_leave_the_reason_and_what_builds_on_it_goes_on(place):
    table = read(text_frame())
    writer = Writer()
    bad = plan_corrections(interactions(), table, n_titles=10).all[0]

    def plan(number, body):
        if bad.title in body["messages"][1]["content"].split("also took")[-1] and "before" not in str(body):
            return 200, {
                "id": "1", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201},
            }  # fmt: skip
        return writer(number, body)

    with pytest.warns(IncompleteWarning):
        result = correct(place, plan, table, attempts=1)
    assert result.counts.failed > 0
    assert result.counts.open == 0
    assert result.counts.failed + result.counts.corrected == result.counts.planned
    back = read(place / "out.parquet").reasons
    old = table.reasons
    row = old.index[(old["user"] == int(bad.user[1:]) + 1) & (old["item"] == int(bad.item[1:]) + 1)][0]
    assert back["text"][row] == old["text"][row]


def test_what_cannot_be_done_is_refused_and_a_dry_run_sends_nothing(place):
    table, writer = read(text_frame()), Writer()
    with pytest.raises(ConfigError, match="temperature=0 gives the same reason every time"):
        correct(place, writer, table, temperature=0)
    firsts = table.reasons.assign(user=1, item=12)
    with pytest.raises(DataError, match="not one of .* reasons can be written again"):
        correct(place, writer, dataclasses.replace(table, reasons=firsts.iloc[:2]))
    estimate = correct_reasons(
        interactions(), catalogue(), table, None, out=place / "out.parquet", dry_run=True, n=N, model="m"
    )
    reasons, _, prompts, _ = naively(table)
    assert estimate.requests == sum(prompts.values()) == len(reasons) * N + sum(k == 1 for k in prompts.values())
    assert ["pattern so far" in str(messages) for messages in estimate.first] == [False, True]
    assert writer.asked == {}
    assert sorted(path.name for path in place.iterdir()) == ["prices.yaml"]


def test_the_adaptor_reads_the_corrected_table_and_keeps_reasons_from_their_users(place):
    table = read(text_frame())
    correct(place, Writer(), table)
    rows = training_rows(interactions(), history_length=3)
    adaptor = CURecAdaptor(EncodedTexts.of(read(place / "out.parquet"), ByText()), *rows, **IDS, dim=4)
    lists = adaptor.reasons
    assert any(text.startswith("Text ") for text in adaptor.texts)
    users, items = (torch.from_numpy(rows[0][name]).long() for name in ("user_id", "item_id"))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            numbers, there = lists.seen(users, items)
        assert not (there & (lists.owner[numbers] == users[:, None])).any()
        assert there.any()


@pytest.mark.parametrize("answer", ["likes chess and tents, and the sea beside them, and much more", "another pattern"])
def test_a_pattern_may_stay_as_it_was(answer, place):
    """An update that repeats the whole pattern is no echo of the question."""
    from sllmr_plugin.scoring.text_questions import TextQuestions

    pattern = "likes chess and tents, and the sea beside them, and much more"
    request = TextRequest("update", "u", (), (), Exemplar("i", "A thing", 1), pattern, "because of this and that")
    questions = TextQuestions("m", templates={"update": TextTemplate("update")})
    assert questions.text_of(json.dumps({"text": answer}), request) == answer


def test_the_command_trains_the_judge_once_and_writes_the_table(place, capsys):
    clicks().to_csv(place / "clicks.csv", index=False)
    catalogue().to_csv(place / "items.csv", index=False)
    text_frame().to_parquet(place / "reasons.parquet")
    common = ["correct", "--interactions", str(place / "clicks.csv"), "--items", str(place / "items.csv")]
    common += ["--texts", str(place / "reasons.parquet"), "--recommender", str(place / "kept"), "-n", str(N)]
    common += ["--quick", "--epochs", "1", "--embedding-dim", "4", "--model", "m", "--out"]
    out = [str(place / "corrected.parquet")]
    assert main([*common, *out, "--dry-run"]) == 0
    assert "pattern so far" in capsys.readouterr().out
    assert not (place / "kept").exists()
    assert main([*common, str(place / "reasons.parquet")]) == 2
    assert "this very run uses" in capsys.readouterr().err
    writer = Writer()
    with ScoringServer(writer) as server:
        assert main([*common, *out, "--base-url", server.base_url]) == 0
        told = capsys.readouterr()
        assert "training, epoch 1" in told.err
        n_asked = writer.total
        assert main([*common, *out, "--base-url", server.base_url]) == 0
    told = capsys.readouterr()
    assert "training" not in told.err
    assert writer.total == n_asked
    back = read(place / "corrected.parquet")
    new = back.reasons[back.reasons["version"] == 1]
    assert len(new) == len(naively(read(text_frame()))[0])
    assert new["reward"].between(0, 1).all()
    assert new["text"].str.startswith("Text ").all()
