"""Policy steps: what they compute, by hand and by finite differences, and what they do to a model of two layers."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from sllmr_plugin.errors import DataError
from sllmr_plugin.llm_tuning.alignment import alignment_reward, alignment_tasks
from sllmr_plugin.llm_tuning.grpo import (
    GRPOSettings,
    Question,
    advantages,
    grpo_loss,
    kl_estimate,
    policy_step,
)
from sllmr_plugin.llm_tuning.labels import answer_ids
from sllmr_plugin.llm_tuning.local_model import LocalModel, LoraSettings, SamplingSettings
from sllmr_plugin.llm_tuning.policy import tune_policy
from sllmr_plugin.llm_tuning.runs import TuningRun

from . import tiny_llm

ASKED = ({"role": "user", "content": "sea tale"},)
SHORT = GRPOSettings(group=4, questions=2, max_new_tokens=6, all_linear=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    texts = [f"{topic} {kind}" for topic in tiny_llm.TOPICS for kind in tiny_llm.KINDS]
    return tiny_llm.save_model(tmp_path_factory.mktemp("llm") / "tiny", texts)


def moved(base, **options):
    """A model whose LoRA weights are no zeros."""
    model = LocalModel.load(base, lora=LoraSettings(all_linear=True), **options)
    generator = torch.Generator().manual_seed(1)
    for weight in model.trained().values():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def fixed(model, monkeypatch, texts):
    """Have a model give these answers."""
    answers = [answer_ids(model.tokenizer, text) for text in texts]
    monkeypatch.setattr(model, "sample", lambda messages, count, settings: answers[:count])
    return answers


def test_advantages_are_standard_scores_within_a_group():
    rewards = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.1, 0.1, 0.1, 0.1]])
    found = advantages(rewards)
    assert found.sum(dim=1).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    std = (((1 - 3) ** 2 + (2 - 3) ** 2 + 0 + (6 - 3) ** 2) / 4) ** 0.5
    assert found[0].tolist() == pytest.approx([-2 / std, -1 / std, 0.0, 3 / std])
    assert found[1].tolist() == [0.0] * 4


def test_the_loss_is_that_of_a_loop_over_tokens():
    generator = torch.Generator().manual_seed(0)
    new, old, reference = (torch.randn((3, 5), generator=generator).double() * 0.4 - 2 for _ in range(3))
    gain = torch.tensor([1.5, -0.7, 0.2]).double()
    lengths = (5, 2, 4)
    mask = torch.tensor([[float(place < length) for place in range(5)] for length in lengths]).double()
    total, kl, n_clipped = 0.0, 0.0, 0.0
    for n, length in enumerate(lengths):
        for t in range(length):
            ratio = float(torch.exp(new[n, t] - old[n, t]))
            near = min(max(ratio, 0.8), 1.2)
            a = float(gain[n])
            d = float(reference[n, t] - new[n, t])
            divergence = float(torch.exp(torch.tensor(d, dtype=torch.float64))) - d - 1
            total += (min(ratio * a, near * a) - 0.3 * divergence) / length / 3
            kl += divergence / length / 3
            n_clipped += (near * a < ratio * a) / length / 3
    loss, measured = grpo_loss(new, old, reference, gain, mask, clip=0.2, beta=0.3)
    assert loss.item() == pytest.approx(-total, rel=1e-10)
    assert measured["kl"].item() == pytest.approx(kl, rel=1e-10)
    assert measured["clipped"].item() == pytest.approx(n_clipped, rel=1e-10)
    assert 0 < n_clipped < 1


def test_the_divergence_is_zero_at_equality_and_positive_elsewhere():
    new = torch.tensor([-1.0, -1.0, -1.0])
    assert kl_estimate(new, torch.tensor([-1.0, -2.0, -0.5])).tolist() == pytest.approx(
        [0.0, 2.718281828**-1 + 1 - 1, 2.718281828**0.5 - 0.5 - 1], rel=1e-5
    )


def test_the_gradient_of_a_first_step_is_that_of_reinforce(base, monkeypatch):
    """By finite differences of the mean over answers of advantage times mean log-probability of the tokens."""
    model = moved(base)
    model.network.double()
    texts = ["sea", "star tale", "sea sea sea", "map"]
    answers = fixed(model, monkeypatch, texts)
    worth = [1.0, 0.0, 4.0, 2.0]
    question = Question(ASKED, lambda found: [worth[texts.index(text)] for text in found])
    groups, measured = policy_step(model, [question], GRPOSettings(group=4, beta=0.0), lambda: None)
    assert measured["clipped"] == 0
    assert measured["reward"] == 1.75
    gain = advantages(torch.tensor([worth]))[0].double()

    def objective():
        with torch.no_grad():
            each = []
            for answer in answers:
                values, _ = model.log_probabilities(groups[0].prompt, [answer])
                each.append(values[0].mean())
            return float((gain * torch.stack(each)).mean())

    checked = 0
    for name, weight in model.trained().items():
        if "layers.1" not in name:
            continue
        place = int(weight.grad.abs().argmax())
        flat, step = weight.data.view(-1), 3e-3  # the model's norms round to float32
        flat[place] += step
        above = objective()
        flat[place] -= 2 * step
        below = objective()
        flat[place] += step
        assert -weight.grad.view(-1)[place].item() == pytest.approx((above - below) / (2 * step), rel=0.01)
        checked += 1
    assert checked >= 4


def test_equal_rewards_leave_no_gradient_and_the_divergence_starts_at_zero(base, monkeypatch):
    for model in (LocalModel.load(base), moved(base)):
        fixed(model, monkeypatch, ["sea", "star tale", "map", "sea"])
        question = Question(ASKED, lambda found: [0.1] * len(found))
        _, measured = policy_step(model, [question], GRPOSettings(group=4, beta=0.0), lambda: None)
        assert all(not weight.grad.any() for weight in model.trained().values())
        assert measured["spread"] == 0
    fresh = LocalModel.load(base)
    fixed(fresh, monkeypatch, ["sea", "star tale", "map", "sea"])
    _, measured = policy_step(fresh, [question], GRPOSettings(group=4, beta=0.5), lambda: None)
    assert measured["kl"] == 0


def test_the_reference_is_the_model_before_and_stays_so(base, tmp_path):
    before = moved(base)
    before.save(tmp_path)
    model = LocalModel.load(base, adapter=tmp_path, reference=True)
    trained, answer = model.trained(), [answer_ids(model.tokenizer, "sea map")]
    assert all(weight.requires_grad for weight in trained.values())
    prompt = [3, 5, 7]
    with torch.no_grad():
        wanted = before.log_probabilities(prompt, answer)[0]
        assert torch.equal(model.log_probabilities(prompt, answer)[0], wanted)
        for weight in trained.values():
            weight.data *= 1.5
        assert not torch.allclose(model.log_probabilities(prompt, answer)[0], wanted, atol=1e-3)
        with model.as_reference():
            assert torch.equal(model.log_probabilities(prompt, answer)[0], wanted)
    assert all(weight.requires_grad for weight in trained.values())
    assert not any(weight.requires_grad for name, weight in model.network.named_parameters() if name not in trained)


def test_log_probabilities_are_those_of_the_answer_token_by_token(base):
    model = moved(base)
    prompt, answers = [3, 5, 7, 6], [[8, 9, 1], [5]]
    values, mask = model.log_probabilities(prompt, answers)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    for row, answer in enumerate(answers):
        for place, token in enumerate(answer):
            logits = model.network(input_ids=torch.tensor([prompt + answer[:place]])).logits[0, -1]
            assert values[row, place].item() == pytest.approx(logits.log_softmax(dim=0)[token].item(), rel=1e-3)
    assert values[1, 1:].tolist() == [0, 0]


def test_samples_end_where_the_model_ends_them(base):
    model = moved(base)
    torch.manual_seed(0)
    answers = model.sample(ASKED, 40, SamplingSettings(max_new_tokens=5))
    end = model.tokenizer.eos_token_id
    assert len(answers) == 40
    assert all(1 <= len(answer) <= 5 and end not in answer[:-1] for answer in answers)
    assert any(answer[-1] == end for answer in answers)
    assert all(len(answer) == 5 or answer[-1] == end for answer in answers)
    assert len({tuple(answer) for answer in answers}) > 20


def test_answers_also_end_where_the_settings_of_the_model_say(base):
    """As Gemma's do, whose turns end with another token than the tokenizer's end of a sequence."""
    model = moved(base)
    other = model.tokenizer.convert_tokens_to_ids("sea")
    model.network.get_base_model().generation_config.eos_token_id = [model.tokenizer.eos_token_id, other]
    assert model.ends == {model.tokenizer.eos_token_id, other}
    torch.manual_seed(0)
    answers = model.sample(ASKED, 60, SamplingSettings(max_new_tokens=12))
    assert not any(token in model.ends for answer in answers for token in answer[:-1])
    assert {answer[-1] for answer in answers if len(answer) < 12} == model.ends


def test_samples_are_of_the_model_itself_whatever_its_settings_say(base, tmp_path):
    """Qwen's penalize repetition, so that samples would not be of the probabilities that a policy step weighs."""
    shutil.copytree(base, tmp_path / "other")
    told = {"eos_token_id": 1, "do_sample": True, "repetition_penalty": 5.0, "top_k": 2, "no_repeat_ngram_size": 1}
    (tmp_path / "other" / "generation_config.json").write_text(json.dumps(told))
    found = []
    for folder in (base, tmp_path / "other"):
        model = LocalModel.load(str(folder))
        torch.manual_seed(0)
        found.append(model.sample(ASKED, 5, SamplingSettings(max_new_tokens=8)))
        assert model.ends == {1}
    assert found[0] == found[1]


def test_a_question_that_leaves_no_room_for_the_answer_is_refused(base):
    model = LocalModel.load(base)
    long = ({"role": "user", "content": "sea " * 1020},)  # a word and a blank each, of 2048
    with pytest.raises(DataError, match=r"and an answer of 20 are more than the 2048 that the model can read"):
        model.sample(long, 1, SamplingSettings(max_new_tokens=20))


@pytest.mark.parametrize("able", [True, False])
def test_logits_are_those_of_the_whole_sequence(base, monkeypatch, able):
    """Also of architectures that cannot leave out the others."""
    model = moved(base)
    rows = torch.tensor([[3, 5, 7, 6, 8], [4, 6, 5, 0, 0]])
    mask, places = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]), torch.tensor([1, 2])
    wanted = model.network(input_ids=rows, attention_mask=mask).logits[:, places]
    if not able:
        blind = SimpleNamespace(signature=lambda call: SimpleNamespace(parameters={}))
        monkeypatch.setattr("sllmr_plugin.llm_tuning.local_model.inspect", blind)
    torch.testing.assert_close(model.logits(rows, mask, places), wanted)
    assert wanted.shape[:2] == (2, 2)


def test_a_reward_that_is_not_finite_is_refused(base, monkeypatch):
    model = LocalModel.load(base)
    fixed(model, monkeypatch, ["sea", "star"])
    question = Question(ASKED, lambda found: [1.0, float("nan")])
    with pytest.raises(DataError, match="a reward is not a finite number"):
        policy_step(model, [question], GRPOSettings(group=2), lambda: None)


def test_several_updates_of_one_set_of_answers_leave_the_ratios_of_one(base, monkeypatch):
    model = moved(base)
    texts = ["sea", "star tale", "map", "sea map"]
    fixed(model, monkeypatch, texts)
    question = Question(ASKED, lambda found: [float(texts.index(text)) for text in found])
    calls = []

    def update():
        calls.append({name: weight.grad.clone() for name, weight in model.trained().items()})
        for weight in model.trained().values():
            weight.data -= 0.5 * weight.grad
            weight.grad = None

    _, measured = policy_step(model, [question], GRPOSettings(group=4, updates=3, clip=0.01), update)
    assert len(calls) == 2
    assert measured["clipped"] > 0
    assert measured["kl"] > 0


@pytest.mark.parametrize("start", ["new", "tuned"])
def test_a_planted_reward_rises(base, tmp_path, start):
    adapter = None
    if start == "tuned":
        moved(base).save(tmp_path / "before")
        adapter = tmp_path / "before"
    questions = [
        Question(({"role": "user", "content": f"{topic} tale"},), lambda found: [text.count("sea") for text in found])
        for topic in tiny_llm.TOPICS
    ]
    settings = GRPOSettings(
        group=8, questions=2, epochs=20, max_new_tokens=4, learning_rate=0.02, beta=0.01, all_linear=True
    )
    tune_policy(base, questions, tmp_path / "run", settings, rewarded_by="sea", adapter=adapter, verbose=False)
    told = TuningRun.read(tmp_path / "run")
    rewards = [line["reward"] for line in told]
    assert len(rewards) == 20
    assert sum(rewards[-5:]) / 5 > rewards[0] + 1.5
    assert told[0]["kl"] == 0
    assert told[-1]["kl"] > 0
    loaded = LocalModel.load(base, adapter=tmp_path / "run" / "adapter")
    torch.manual_seed(1)
    texts = [loaded.text(answer) for answer in loaded.sample(ASKED, 20, SamplingSettings(max_new_tokens=4))]
    assert sum(text.count("sea") for text in texts) / 20 > rewards[0] + 1.5


class StoppedError(Exception):
    """What a test stops a tuning with."""


def test_policy_steps_go_on_where_they_stopped(base, tmp_path):
    asked = []

    def question(number, stop_at=None):
        def reward(texts):
            asked.append(number)
            if len(asked) == stop_at:
                raise StoppedError
            return [text.count("sea") for text in texts]

        return Question(({"role": "user", "content": f"sea {tiny_llm.KINDS[number]}"},), reward)

    settings = GRPOSettings(**{**vars(SHORT), "save_every": 1, "learning_rate": 0.01})
    whole = tune_policy(base, [question(n) for n in range(4)], tmp_path / "a", settings, rewarded_by="x", verbose=False)
    asked.clear()
    with pytest.raises(StoppedError):
        tune_policy(
            base, [question(n, stop_at=5) for n in range(4)], tmp_path / "b", settings, rewarded_by="x", verbose=False
        )
    parts = tune_policy(base, [question(n) for n in range(4)], tmp_path / "b", settings, rewarded_by="x", verbose=False)
    assert TuningRun.read(tmp_path / "a") == TuningRun.read(tmp_path / "b")
    for one, other in zip(whole.trained().values(), parts.trained().values(), strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------------- CURec's alignment

SEA = "<think>The user likes the sea.</think>"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (f"{SEA}<answer>sea map</answer>", (1, 1, 1)),
        (f" {SEA}\n<answer> Sea  Map </answer>\n", (1, 1, 1)),
        (f"{SEA}<answer>star map</answer>", (1, 1, 0)),
        (f"{SEA}<answer>moon map</answer>", (1, 0, 0)),
        (f"{SEA}<answer>sea map</answer> I hope this helps", (0, 1, 1)),
        ("<answer>sea map</answer>", (0, 1, 1)),
        (f"{SEA}sea map", (0, 0, 0)),
        (f"{SEA}{SEA}<answer>sea map</answer>", (0, 1, 1)),
        ("<think>a<think>b</think><answer>sea map</answer>", (0, 1, 1)),
        (f"{SEA}<answer>star map</answer><answer>sea map</answer>", (0, 0, 0)),
        ("<answer>sea map</answer><think>late</think>", (0, 1, 1)),
        ("", (0, 0, 0)),
    ],
)
def test_the_reward_of_an_alignment_has_three_parts(answer, parts):
    assert alignment_reward(answer, ["sea map", "star map"], "sea map") == parts


def test_an_alignment_shows_what_was_before_and_no_held_out_item_as_wrong():
    data = tiny_llm.interactions()
    tasks = alignment_tasks(data, 1000, negatives=4)
    train = data.train[data.train["label"] == 1]
    assert len(tasks) == len(train) - train["user"].nunique()
    for one in tasks:
        user = data.user_index[one.user_id]
        own = [data.titles[item] for item in train.loc[train["user"] == user, "item"]]
        place = own.index(one.target)
        assert one.target == data.titles[data.item_index[one.item_id]]
        shown, listed = one.messages[1]["content"].split("\n\nCandidates:\n")
        assert shown.split("\n- ")[1:] == own[:place]
        assert listed.split("\n\n")[0].removeprefix("- ").split("\n- ") == list(one.candidates)
        every = {
            data.titles[item]
            for split in (data.train, data.valid, data.test)
            for item in split.loc[split["user"] == user, "item"]
        }
        assert set(one.candidates) & every == {one.target}
        assert len(one.candidates) == 5
        assert one.question().reward([f"<answer>{one.target}</answer>", "no"]) == [2.0, 0.0]
    assert alignment_tasks(data, 5, negatives=4) == tasks[:5]
    places = [one.candidates.index(one.target) for one in tasks]
    assert set(places) == set(range(5))
    assert max(places.count(place) for place in range(5)) < len(tasks) / 2


def test_data_that_allow_no_alignment_are_refused():
    data = tiny_llm.interactions()
    with pytest.raises(DataError, match="no titles"):
        alignment_tasks(type(data)(**{**vars(data), "titles": None}), 5)
