"""CURec's chronological correction by policy steps, on a model of two layers: order, what is shown, kept, learned."""

import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import TextTable
from sllmr_plugin.errors import DataError, IncompleteWarning, RunFolderError
from sllmr_plugin.llm_tuning.correction import CorrectionSettings, in_time, tune_corrections
from sllmr_plugin.llm_tuning.labels import answer_ids
from sllmr_plugin.llm_tuning.local_model import LocalModel
from sllmr_plugin.llm_tuning.runs import TuningRun
from sllmr_plugin.scores.origin import read_metadata
from sllmr_plugin.scoring.corrections import plan_corrections

from . import tiny_llm

WORDS = [*tiny_llm.TOPICS, *tiny_llm.KINDS]
WITHOUT_PATTERN = "u03"
GROUP, MOST = 3, 4
QUICK = CorrectionSettings(group=GROUP, max_new_tokens=12, learning_rate=0.01, all_linear=True, save_every=2, most=MOST)
LONGER = CorrectionSettings(**{**vars(QUICK), "most": 6})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small vocabulary, so that the end of an answer is not rare; all other words are one token."""
    return tiny_llm.save_model(tmp_path_factory.mktemp("llm") / "tiny", [" ".join(WORDS)])


def table():
    """A reason for every training interaction, in no order, and one about a held-out one; patterns but of one user."""
    data = tiny_llm.interactions()
    pairs = data.train[["user", "item"]].to_numpy()
    pairs = [*pairs[np.random.default_rng(1).permutation(len(pairs))], data.test[["user", "item"]].to_numpy()[0]]
    rows = [
        ("reason", data.user_ids[user - 1], f"old reason {number}", data.item_ids[item - 1], 1)
        for number, (user, item) in enumerate(pairs)
    ]
    told = [user for user in data.user_ids if user != WITHOUT_PATTERN]
    rows += [("pattern", user, f"old pattern {number}", None, None) for number, user in enumerate(told)]
    frame = pd.DataFrame(rows, columns=["kind", "id", "text", "item_id", "label"])
    return TextTable.read(frame, user_index=data.user_index, item_index=data.item_index)


class Judge:
    """Rewards by hash of the reason, the user's pattern and the item's reasons as they are at that moment."""

    def __init__(self, texts, worth=None, fails_at=None):
        data = tiny_llm.interactions()
        self.worth, self.fails_at, self.calls = worth, fails_at, 0
        self.lists, self.patterns = {}, {}
        for one in texts.reasons.itertuples():
            self.keep(data.user_ids[one.user - 1], data.item_ids[one.item - 1], one.text)
        for user, text in texts.patterns.items():
            self.update(data.user_ids[user - 1], text)

    def rewards(self, user, item, reasons):
        self.calls += 1
        if self.calls == self.fails_at:
            raise StoppedError
        if self.worth is not None:
            return [self.worth(reason) for reason in reasons]
        state = self.patterns.get(user), sorted(self.lists[item].items())
        return [zlib.crc32(repr((user, reason, state)).encode()) / 2**32 for reason in reasons]

    def keep(self, user, item, reason):
        self.lists.setdefault(item, {})[user] = reason

    def update(self, user, pattern):
        self.patterns[user] = pattern


class StoppedError(Exception):
    """What a test stops a tuning with."""


def tune(base, out, settings=QUICK, judge=None, **options):
    texts = table()
    judge = judge or Judge(texts)
    return tune_corrections(
        base, tiny_llm.interactions(), texts, judge, out, settings, rewarded_by="a hash", verbose=False, **options
    )


def said(messages, number):
    """What a model answers when it is asked something for the number-th time: three words."""
    code = zlib.crc32(json.dumps([*messages, number]).encode())
    return " ".join(WORDS[code // 8**place % 8] for place in range(3))


class Speaker:
    """Stands for `LocalModel.sample`: answers by `said`, and notes what it was asked, and the weights at that time."""

    def __init__(self, answer=said, ends=True):
        self.answer, self.ends, self.asked = answer, ends, []

    def __call__(self, model, messages, count, settings):
        weights = torch.cat([weight.detach().flatten() for weight in model.trained().values()])
        self.asked.append((tuple(message["content"] for message in messages), count, weights))
        found = [answer_ids(model.tokenizer, self.answer(messages, number)) for number in range(count)]
        return found if self.ends else [answer[:-1] for answer in found]


def speaking(monkeypatch, **options):
    speaker = Speaker(**options)
    monkeypatch.setattr(LocalModel, "sample", lambda *arguments: speaker(*arguments))
    return speaker


def shown_titles(content):
    return json.loads(re.search(r"\[.*?\]", content, re.DOTALL)[0])


def shown_item(content):
    return json.loads(re.search(r"\{.*?\}", content, re.DOTALL)[0])["title"]


def in_order():
    """Raw user, raw item and the titles before, of every training interaction but first ones: place by place."""
    data = tiny_llm.interactions()
    title = dict(zip(data.item_ids, data.titles, strict=True))
    own = {}
    for user, item in data.train[["user", "item"]].to_numpy():
        own.setdefault(data.user_ids[user - 1], []).append(data.item_ids[item - 1])
    return [
        (user, items[place], [title[item] for item in items[:place]], title[items[place]])
        for place in range(1, max(map(len, own.values())))
        for user, items in sorted(own.items())
        if place < len(items)
    ]


def test_it_comes_to_what_a_loop_over_time_comes_to(base, tmp_path, monkeypatch):
    """Prompts, choices, patterns and rewards; the old order of the table and held-out items have no part in it."""
    speaker, texts = speaking(monkeypatch), table()
    result = tune(base, tmp_path, CorrectionSettings(**{**vars(QUICK), "most": None}))
    judge, asked, reasons = Judge(texts), iter(speaker.asked), {}
    patterns = dict(judge.patterns)
    data = tiny_llm.interactions()
    for user, item, before, title in in_order():
        (system, content), count, _ = next(asked)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
        assert (shown_titles(content), shown_item(content), count) == (before, title, GROUP)
        (_, again), count, _ = next(asked)
        assert (again, count) == (content, 1)
        reason = said(messages, 0)
        (reward,) = judge.rewards(user, item, [reason])
        reasons[user, item] = reason, reward
        judge.keep(user, item, reason)
        if user in patterns:
            (system, content), count, _ = next(asked)
            assert count == 1
            parts = [json.loads(line) for line in content.splitlines() if line.startswith('"') and "title" not in line]
            assert parts == [patterns[user], reason]
            patterns[user] = said([{"role": "system", "content": system}, {"role": "user", "content": content}], 0)
            judge.update(user, patterns[user])
    assert next(asked, None) is None
    prompts = [content for (_, content), *_ in speaker.asked]
    secret = [id for id in (*data.user_ids, *data.item_ids, "held out") if any(id in text for text in prompts)]
    assert secret == []
    back = TextTable.read(result.path, user_index=data.user_index, item_index=data.item_index)
    new = {
        (data.user_ids[one.user - 1], data.item_ids[one.item - 1]): (one.text, one.reward)
        for one in back.reasons.itertuples()
        if one.version == 1
    }
    assert new == reasons
    assert {data.user_ids[user - 1]: text for user, text in back.patterns.items()} == patterns
    assert len(back.reasons) == len(texts.reasons)
    counts = result.counts
    assert (counts.corrected, counts.planned, counts.failed, counts.open) == (len(reasons), len(reasons), 0, 0)
    assert counts.updated == sum(user != WITHOUT_PATTERN for user, *_ in in_order())
    assert counts.reward == pytest.approx(np.mean([reward for _, reward in reasons.values()]))
    assert read_metadata(result.path)["model"] == base


def test_what_is_kept_is_written_by_the_model_after_its_step(base, tmp_path, monkeypatch):
    speaker = speaking(monkeypatch)
    tune(base, tmp_path)
    weights = [(count, now) for _, count, now in speaker.asked]
    groups = [place for place, (count, _) in enumerate(weights) if count == GROUP]
    assert len(groups) == MOST
    for place in groups:
        assert not torch.equal(weights[place][1], weights[place + 1][1])  # a step between group and reason
        after = [now for _, now in weights[place + 1 : next((g for g in groups if g > place), None)]]
        assert all(torch.equal(now, after[0]) for now in after)
    for place in groups[1:]:
        assert torch.equal(weights[place - 1][1], weights[place][1])  # and none between interactions


def test_equal_rewards_and_a_learning_rate_of_0_leave_the_model_alone(base, tmp_path, monkeypatch):
    plain = {name: weight.clone() for name, weight in LocalModel.load(base, lora=QUICK).trained().items()}
    speaking(monkeypatch)
    alike = CorrectionSettings(**{**vars(QUICK), "beta": 0.0})
    still = CorrectionSettings(**{**vars(QUICK), "learning_rate": 0.0})
    with pytest.warns(IncompleteWarning, match=f"in none of {MOST} steps one answer was worth more"):
        results = [tune(base, tmp_path / "alike", alike, Judge(table(), lambda reason: 0.3))]
    results.append(tune(base, tmp_path / "still", still))
    for result in results:
        assert all(torch.equal(weight, plain[name]) for name, weight in result.model.trained().items())
        assert result.counts.corrected == MOST  # texts are written all the same
    moved = tune(base, tmp_path / "moved").model.trained()
    assert not all(torch.equal(weight, plain[name]) for name, weight in moved.items())


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """What a correction comes to that is not stopped."""
    return tune(base, tmp_path_factory.mktemp("whole"), LONGER)


@pytest.mark.parametrize("fails_at", [1, 7])
def test_a_correction_that_was_stopped_ends_as_one_that_was_not(base, tmp_path, whole, fails_at):
    """Weights, moments, texts, and what the recommender knows of them; from any place between two checkpoints."""
    assert whole.counts.corrected >= 3
    assert whole.counts.updated >= 1
    with pytest.raises(StoppedError):
        tune(base, tmp_path / "parts", LONGER, judge=Judge(table(), fails_at=fails_at))
    parts = tune(base, tmp_path / "parts", LONGER)
    assert TuningRun.read(whole.path.parent) == TuningRun.read(tmp_path / "parts")
    one, other = whole.model.trained(), parts.model.trained()
    assert all(torch.equal(one[name], other[name]) for name in one)
    pd.testing.assert_frame_equal(whole.frame, parts.frame)
    assert whole.counts == parts.counts
    again = tune(base, tmp_path / "parts", LONGER, judge=Judge(table(), fails_at=1))  # nothing is left to be judged
    pd.testing.assert_frame_equal(again.frame, whole.frame)


def test_an_answer_that_cannot_be_used_is_worth_nothing_and_another_takes_its_place(base, tmp_path, monkeypatch):
    """Of the group's three the second cannot be used; the one after the step neither, so the group's best is kept."""
    speaker = speaking(monkeypatch)
    texts = ["sea map", "", "star map"]
    speaker.answer = lambda messages, number: texts[number] if len(speaker.asked) == 1 else ""
    worth = {"sea map": 0.25, "star map": 0.75}
    seen = []

    def reward(reason):
        seen.append(reason)
        return worth.get(reason, 0.5)

    settings = CorrectionSettings(**{**vars(QUICK), "most": 1})
    result = tune(base, tmp_path, settings, Judge(table(), reward))
    assert result.frame.loc[result.frame["version"] == 1, "text"].tolist() == ["star map"]
    assert "" not in seen
    (line,) = TuningRun.read(tmp_path)
    assert line["reward"] == pytest.approx(1 / 3)
    assert (line["usable"], line["before"], line["kept"]) == (pytest.approx(2 / 3), 0.5, 0.75)
    assert result.counts.drawn == 0.5
    assert result.counts.updated == 0  # the pattern that was written is empty


@pytest.mark.parametrize("options", [{"ends": False}, {"answer": lambda messages, number: ""}])
def test_without_any_usable_answer_the_texts_stay_and_it_is_told(base, tmp_path, monkeypatch, options):
    speaking(monkeypatch, **options)
    with pytest.warns(IncompleteWarning, match=f"not one of {MOST} reasons"):
        result = tune(base, tmp_path)
    assert (result.counts.corrected, result.counts.failed) == (0, MOST)
    assert result.counts.open == len(in_order()) - MOST
    assert result.frame["version"].isna().all()
    assert {line["usable"] for line in TuningRun.read(tmp_path)} == {0.0}


def test_the_rewards_of_a_recommender_rise(base, tmp_path):
    """It likes any reason, and one that speaks of the sea better."""
    settings = CorrectionSettings(group=8, max_new_tokens=16, learning_rate=0.02, beta=0.01, all_linear=True, most=16)
    tune(base, tmp_path, settings, Judge(table(), lambda reason: min(1.0, 0.2 + reason.count("sea") / 4)))
    rewards = [line["reward"] for line in TuningRun.read(tmp_path)]
    assert len(rewards) == 16
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.2, rewards


def test_steps_follow_time_and_share_neither_user_nor_item(base, tmp_path):
    plan = plan_corrections(tiny_llm.interactions(), table(), n_titles=10)
    for size in (1, 3, 100):
        steps = in_time(plan.all, size)
        assert [one for step in steps for one in step] == list(plan.all)
        for step in steps:
            assert len({one.user for one in step}) == len({one.item for one in step}) == len(step) <= size
    assert len(in_time(plan.all, 1)) == len(plan.all)
    assert 1 < len(in_time(plan.all, 100)) < len(plan.all) / 2
    result = tune(base, tmp_path, CorrectionSettings(**{**vars(QUICK), "questions": 3}))
    assert len(TuningRun.read(tmp_path)) == len(in_time(plan.all[:MOST], 3)) < MOST
    assert result.counts.planned == len(plan.all)


def test_what_cannot_be_done_is_refused(base, tmp_path):
    tune(base, tmp_path / "run", CorrectionSettings(**{**vars(QUICK), "most": 1}))
    with pytest.raises(RunFolderError, match="max_words was 120, now 60"):
        tune(base, tmp_path / "run", CorrectionSettings(**{**vars(QUICK), "most": 1, "max_words": 60}))
    texts = table()
    texts.reasons["text"] = texts.reasons["text"] + " again"
    with pytest.raises(RunFolderError, match="reasons was"):
        tune_corrections(
            base, tiny_llm.interactions(), texts, Judge(texts), tmp_path / "run",
            CorrectionSettings(**{**vars(QUICK), "most": 1}), rewarded_by="a hash", verbose=False,
        )  # fmt: skip
    with pytest.raises(DataError, match="not a finite number"):
        tune(base, tmp_path / "nan", judge=Judge(table(), lambda reason: float("nan")))
