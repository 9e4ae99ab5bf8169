"""Supervised tuning, the reward model and their folders, on a model of two layers."""

import collections
import json

import pytest
import torch

from sllmr_plugin.errors import ConfigError, DataError, IncompleteWarning, MissingLibraryError, RunFolderError
from sllmr_plugin.llm_tuning import local_model
from sllmr_plugin.llm_tuning.labels import IGNORED, answer_ids, labelled, prompt_ids
from sllmr_plugin.llm_tuning.local_model import LocalModel, LoraSettings
from sllmr_plugin.llm_tuning.reward import (
    SHARES,
    Preference,
    RewardModel,
    RewardSettings,
    pairwise_loss,
    preferences,
    rejected_profile,
    report,
    tune_reward,
)
from sllmr_plugin.llm_tuning.runs import TuningRun
from sllmr_plugin.llm_tuning.scorer import LocalScorer
from sllmr_plugin.llm_tuning.sft import TuningSettings, answer_loss, batches, tune_on_answers
from sllmr_plugin.llm_tuning.two_turn import ProfileData, ProfileQuestion
from sllmr_plugin.scoring.prompts import PromptTemplate
from sllmr_plugin.scoring.requests import ScoringRequest
from sllmr_plugin.scoring.scorers import score_with

from . import tiny_llm

TALK = [
    ({"role": "user", "content": f"{topic} {kind}"}, {"role": "assistant", "content": f"{kind} {topic}"})
    for topic in tiny_llm.TOPICS
    for kind in tiny_llm.KINDS
]
QUICK = TuningSettings(learning_rate=0.01, epochs=2, batch_size=4, rank=4, lora_dropout=0.1)


@pytest.fixture(scope="module")
def known():
    return ProfileData(tiny_llm.interactions(), tiny_llm.profiles(), neighbours=2, history_length=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory, known):
    texts = [message["content"] for one in known.dialogues() for message in one.messages]
    texts += [message["content"] for one in known.questions() for message in one.messages]
    return tiny_llm.save_model(tmp_path_factory.mktemp("llm") / "tiny", texts)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.trained().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_example_is_dealt_once_an_epoch():
    plan = batches(10, 4, 3, seed=1)
    assert [len(part) for part in plan] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(number for part in plan[3 * epoch : 3 * epoch + 3] for number in part) == list(range(10))
    assert plan[0].tolist() != plan[3].tolist()


def test_the_loss_is_the_cross_entropy_of_the_answers_alone(base):
    model = LocalModel.load(base)
    both = [labelled(model.tokenizer, talk) for talk in (TALK[0], (*TALK[3], *TALK[4]))]
    total = 0.0
    for ids, labels in both:  # one by one, without padding, token by token
        logits = model.network(input_ids=torch.tensor([ids])).logits[0]
        for place, label in enumerate(labels):
            if label != IGNORED:
                total -= logits[place - 1].log_softmax(dim=0)[label].item()
    loss = answer_loss(model, [ids for ids, _ in both], [labels for _, labels in both])
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_tuning_learns_the_answers_and_keeps_the_model_beside_them(base, tmp_path):
    plain = LocalModel.load(base)
    frozen = {name: weight.clone() for name, weight in plain.network.named_parameters() if "lora" not in name}
    frozen = {name.replace(".base_layer.", "."): weight for name, weight in frozen.items()}
    settings = TuningSettings(learning_rate=0.02, epochs=20, batch_size=6, all_linear=True, lora_dropout=0.0)
    model = tune_on_answers(base, TALK, tmp_path / "run", settings, verbose=False)
    losses = [line["loss"] for line in TuningRun.read(tmp_path / "run")]
    assert len(losses) == 40
    assert losses[-1] < 0.5 * losses[0]
    now = {name.replace(".base_layer.", "."): weight for name, weight in model.network.named_parameters()}
    assert frozen
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())
    files = {path.name for path in (tmp_path / "run" / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    again = LocalModel.load(base, adapter=tmp_path / "run" / "adapter")
    assert same(weights(again), weights(model))
    prompt = prompt_ids(model.tokenizer, TALK[2][:1])
    answer = answer_ids(model.tokenizer, TALK[2][1]["content"])
    was, is_now = (one.log_probabilities(prompt, [answer])[0].sum().item() for one in (plain, again))
    assert is_now > was + 1
    with again.as_reference(), torch.no_grad():
        assert again.log_probabilities(prompt, [answer])[0].sum().item() == was


class StoppedError(Exception):
    """What a test stops a tuning with."""


def test_a_tuning_that_was_stopped_ends_as_one_that_was_not(base, tmp_path, monkeypatch):
    whole = tune_on_answers(base, TALK, tmp_path / "whole", QUICK, verbose=False)
    append = TuningRun._append

    def stop(self, line):
        append(self, line)
        if line["step"] == 3:
            raise StoppedError

    settings = TuningSettings(**{**vars(QUICK), "save_every": 2})
    monkeypatch.setattr(TuningRun, "_append", stop)
    with pytest.raises(StoppedError):
        tune_on_answers(base, TALK, tmp_path / "parts", settings, verbose=False)
    monkeypatch.setattr(TuningRun, "_append", append)
    assert len(TuningRun.read(tmp_path / "parts")) == 4  # two of them behind the last checkpoint
    resumed = tune_on_answers(base, TALK, tmp_path / "parts", settings, verbose=False)
    assert same(weights(resumed), weights(whole))
    assert TuningRun.read(tmp_path / "parts") == TuningRun.read(tmp_path / "whole")
    assert [line["step"] for line in TuningRun.read(tmp_path / "whole")] == list(range(6))
    # a finished one is not trained on
    monkeypatch.setattr(TuningRun, "_append", stop)
    assert same(weights(tune_on_answers(base, TALK, tmp_path / "parts", settings, verbose=False)), weights(whole))


def test_a_folder_of_another_tuning_and_a_broken_one_are_refused(base, tmp_path):
    tune_on_answers(base, TALK[:4], tmp_path, QUICK, verbose=False)
    with pytest.raises(RunFolderError, match=r"epochs was 2, now 3"):
        tune_on_answers(base, TALK[:4], tmp_path, TuningSettings(**{**vars(QUICK), "epochs": 3}), verbose=False)
    with pytest.raises(RunFolderError, match="conversations was"):
        tune_on_answers(base, TALK[:3], tmp_path, QUICK, verbose=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not this")
    with pytest.raises(RunFolderError, match="Delete it to begin again"):
        tune_on_answers(base, TALK[:4], tmp_path, QUICK, verbose=False)


def test_long_conversations_are_left_out_loudly(base, tmp_path):
    long = ({"role": "user", "content": "sea " * 40}, {"role": "assistant", "content": "sea"})
    settings = TuningSettings(**{**vars(QUICK), "max_length": 40})
    with pytest.warns(IncompleteWarning, match="1 of 5 sequences have more than 40 tokens"):
        tune_on_answers(base, [*TALK[:4], long], tmp_path / "some", settings, verbose=False)
    with pytest.raises(DataError, match="not one of 1 sequences"):
        tune_on_answers(base, [long], tmp_path / "none", settings, verbose=False)


def test_what_is_missing_is_named(base, tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        LocalModel.load(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="LoRA weights"):
        LocalModel.load(base, adapter=tmp_path)
    with pytest.raises(ConfigError, match="rank"):
        LoraSettings(rank=0)


def test_a_library_that_a_model_needs_is_named(base, tmp_path, monkeypatch):
    transformers, _ = local_model.import_libraries()

    def needs_more(**where):
        raise ImportError("Loading a GGUF checkpoint requires GGUF")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", needs_more)
    with pytest.raises(MissingLibraryError, match="pip install gguf"):
        LocalModel.load(str(tmp_path / "model.gguf"))


def test_sequences_beyond_the_context_are_left_out_and_not_scored(base, tmp_path):
    """It is 2048 tokens, whatever max_length says."""
    long = ({"role": "user", "content": "sea " * 1100}, {"role": "assistant", "content": "sea"})
    settings = TuningSettings(**{**vars(QUICK), "epochs": 1, "max_length": 9999})
    with pytest.warns(IncompleteWarning, match="1 of 3 sequences have more than 2048 tokens"):
        tune_on_answers(base, [*TALK[:2], long], tmp_path, settings, verbose=False)
    request = ScoringRequest("u", ("sea map",) * 300, ("a",), ("sea tale",))
    with pytest.raises(DataError, match="user 'u' has .* tokens, more than the 2048"):
        LocalScorer(base).score(request)


class Blind:
    """A tokenizer whose class does not fit its files: it makes nothing of a text but its special tokens."""

    chat_template, bos_token, all_special_ids = None, "<s>", (0,)

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [0]}


def test_a_tokenizer_that_makes_nothing_of_a_text_is_refused():
    for read in (prompt_ids, labelled):
        with pytest.raises(ConfigError, match=r"\(Blind\) makes no token"):
            read(Blind(), TALK[0])


def test_without_the_libraries_the_command_that_installs_them_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'sllmr-plugin\[llm\]'"):
        local_model.import_libraries()


# ---------------------------------------------------------------------- the reward model

OWN, SIMILAR = "identity: nurse, reader; interests: maps, sea", "identity: cook; interests: films"


def test_rejected_profiles_are_the_six_kinds():
    assert {kind: rejected_profile(kind, OWN, SIMILAR) for kind in SHARES} == {
        "similar": "identity: cook; interests: films",
        "own_and_similar": "identity: nurse, reader; interests: maps, sea; identity: cook; interests: films",
        "identities": "identity: nurse, reader",
        "identities_twice": "identity: nurse, reader; identity: nurse, reader",
        "form": "identity: ; interests: ",
        "dot": ".",
    }


def test_kinds_come_in_their_shares_and_no_profile_is_rejected_as_itself():
    questions = [ProfileQuestion(n, ({"role": "user", "content": str(n)},), OWN, SIMILAR) for n in range(25)]
    counts = collections.Counter(one.kind for one in preferences(questions))
    assert sum(counts.values()) == 25
    assert all(abs(counts[kind] - 25 * share) < 1 for kind, share in SHARES.items())
    assert [one.kind for one in preferences(questions, seed=1)] != [one.kind for one in preferences(questions)]
    alike = [ProfileQuestion(n, (), OWN, OWN) for n in range(20)]
    assert {one.kind for one in preferences(alike)} == set(SHARES) - {"similar"}


def test_the_pairwise_loss_is_that_of_the_paper():
    chosen, rejected = torch.tensor([1.0, -0.5]), torch.tensor([0.0, 2.0])
    wanted = -sum(torch.log(1 / (1 + torch.exp(-d))) for d in (torch.tensor(1.0), torch.tensor(-2.5))) / 2
    assert pairwise_loss(chosen, rejected).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_reward_is_read_at_the_end_of_the_answer_whatever_is_beside_it(base):
    reward = RewardModel(LocalModel.load(base))
    torch.nn.init.normal_(reward.head.weight, generator=torch.Generator().manual_seed(3))
    one, other = (reward.encode(TALK[0][:1], text) for text in ("tale", "tale sea sea sea"))
    with torch.no_grad():
        together = reward([one, other])
        inside = reward.model.network(input_ids=torch.tensor([one]), output_hidden_states=True).hidden_states[-1]
    assert together[0].item() == pytest.approx((inside[0, -1] @ reward.head.weight[0]).item(), rel=1e-4)
    assert together[1].item() != pytest.approx(together[0].item(), rel=1e-3)
    assert reward.score(TALK[0][:1], ["tale", "tale sea sea sea"]) == pytest.approx(together.tolist(), rel=1e-5)


def judged(names):
    """Questions of a taste, with a profile of that taste and a similar user's of the other, and all rejected kinds."""
    others = dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
    questions = [
        ProfileQuestion(
            name,
            ({"role": "user", "content": f"{topic} {kind}"},),
            f"identity: {name}; interests: {topic}",
            f"identity: {others[name]}; interests: {other}",
        )
        for topic, other in (tiny_llm.TOPICS, tiny_llm.TOPICS[::-1])
        for name in names
        for kind in tiny_llm.KINDS[:3]
    ]
    return [
        Preference(one.messages, one.profile, rejected_profile(kind, one.profile, one.similar), kind)
        for one in questions
        for kind in SHARES
    ]


NAMES = ("student", "sailor", "pilot", "nurse", "cook", "clerk")


def test_the_reward_model_learns_to_reject_every_kind(tmp_path):
    """Also of users with identities that it was not trained on: a similar user's profile by the taste alone."""
    train, unseen = judged(NAMES[:4]), judged(NAMES[4:])
    texts = [f"{one.messages[0]['content']} {one.chosen} {one.rejected}" for one in (*train, *unseen)]
    base = tiny_llm.save_model(tmp_path / "tiny", texts, None)
    settings = RewardSettings(
        learning_rate=0.005, epochs=4, batch_size=12, all_linear=True, lora_dropout=0.0, held_out=0.0
    )
    reward, nothing = tune_reward(base, train, tmp_path / "run", settings, verbose=False)
    assert str(nothing) == "no pair was held out"
    found = report(reward, unseen)
    assert found.pairs == dict.fromkeys(SHARES, 12)
    assert min(found.accuracy.values()) > 0.9, found
    again = RewardModel.load(base, tmp_path / "run" / "adapter")
    answers = [unseen[0].chosen, unseen[0].rejected]
    assert again.score(unseen[0].messages, answers) == reward.score(unseen[0].messages, answers)
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["held_out"] == 0.0


def test_held_out_pairs_are_not_trained_on(base, known, tmp_path):
    pairs = preferences(known.questions())
    settings = RewardSettings(learning_rate=0.02, epochs=1, batch_size=3, held_out=0.5)
    _, found = tune_reward(base, pairs, tmp_path, settings, verbose=False)
    assert sum(found.pairs.values()) == len(pairs) // 2
    assert len(TuningRun.read(tmp_path)) == -(-(len(pairs) - len(pairs) // 2) // 3)


def test_a_folder_without_a_reward_model_is_refused(base, tmp_path):
    tune_on_answers(base, TALK[:4], tmp_path, QUICK, verbose=False)
    with pytest.raises(ConfigError, match="holds no reward model"):
        RewardModel.load(base, tmp_path / "adapter")
    with pytest.raises(DataError, match="no pair"):
        tune_reward(base, [], tmp_path / "none", RewardSettings())


# ---------------------------------------------------------------------- as a scorer


def test_a_tuned_model_scores_by_how_likely_it_says_yes(tmp_path):
    template = PromptTemplate.of(None, answer="yes_no")
    request = ScoringRequest("u", ("sea map",), ("a", "b", 3), ("sea tale", "star", "sea"))
    one_by_one = [
        template.render(ScoringRequest("u", request.history, (item,), (title,)))
        for item, title in zip(request.item_ids, request.titles, strict=True)
    ]
    base = tiny_llm.save_model(tmp_path / "tiny", [m["content"] + " yes No YES" for talk in one_by_one for m in talk])
    talk = [
        (*messages, {"role": "assistant", "content": "Yes" if "sea" in title else "No"})
        for messages, title in zip(one_by_one, request.titles, strict=True)
    ]
    settings = TuningSettings(learning_rate=0.02, epochs=20, batch_size=3, all_linear=True, lora_dropout=0.0)
    tune_on_answers(base, talk, tmp_path / "run", settings, verbose=False)
    scorer = LocalScorer(base, tmp_path / "run" / "adapter")
    ((_, answer),) = score_with(scorer, [request], verbose=False)
    assert answer.scores["a"] > 0.9 > 0.1 > answer.scores["b"]
    assert answer.scores[3] > 0.9
    model = LocalModel.load(base, adapter=tmp_path / "run" / "adapter")
    for item, messages in zip(request.item_ids, one_by_one, strict=True):
        ids = prompt_ids(model.tokenizer, messages)
        probability = model.network(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=0)
        said = {"yes": 0.0, "no": 0.0}
        for word, number in model.tokenizer.get_vocab().items():
            if word.lower() in said:
                said[word.lower()] += probability[number].item()
        assert answer.scores[item] == pytest.approx(said["yes"] / sum(said.values()), rel=1e-3)
