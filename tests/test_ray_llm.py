"""Rows before and behind an LLM engine, and the rounds, with a stand-in for the engine; no GPU, no vLLM, no Ray."""

import doctest
import json

import pytest

from sllmr_plugin.errors import ConfigError
from sllmr_plugin.scoring import ray
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.prompts import PromptTemplate
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ray import BatchStages, score_in_rounds

from .scoring_server import content, score_of
from .test_scoring_run import requests, truth

QUESTIONS = Questions("tiny")


def generate(row, kind=None):
    """What the engine adds to a row; it takes its own input away."""
    text = content(row["messages"], kind)
    kept = {name: value for name, value in row.items() if name not in ("messages", "sampling_params")}
    return kept | {"generated_text": text, "num_input_tokens": 500, "num_generated_tokens": len(text) // 3}


def engine(stages, kind_of=lambda row: None):
    """Rows in, rows out, last first: batches come back in any order."""

    def process(rows):
        prepared = [stages.preprocess(row) for row in rows]
        return [stages.postprocess(generate(row, kind_of(row))) for row in reversed(prepared)]

    return process


def test_the_examples_hold():
    assert doctest.testmod(ray).failed == 0


def test_a_row_asks_what_a_server_would_be_asked():
    (request,) = requests(1)
    row = BatchStages(QUESTIONS).preprocess(BatchStages(QUESTIONS).row(request))
    assert row["messages"] == PromptTemplate().render(request)
    assert row["sampling_params"]["temperature"] == 0
    assert row["sampling_params"]["max_tokens"] == 200 + 20 * 4
    schema = json.loads(row["sampling_params"]["structured_outputs"]["json"])
    assert list(schema["properties"]["scores"]["properties"]) == ["1", "2", "3", "4"]
    without = BatchStages(Questions("tiny", temperature=None, max_tokens=None))
    assert without.preprocess(without.row(request))["sampling_params"].keys() == {"max_tokens", "structured_outputs"}
    with pytest.raises(ConfigError, match="log-probabilities"):
        BatchStages(Questions("tiny", top_logprobs=5))


def test_answers_are_in_the_ledger_under_the_keys_that_a_server_run_looks_up(tmp_path):
    asked, stages = requests(7), BatchStages(QUESTIONS)
    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert score_in_rounds(asked, stages, ledger, engine(stages)) == 7
        found = {request.user_id: answer.scores for request, answer in QUESTIONS.stored_answers(asked, ledger)}
        assert found == truth(asked)
        assert score_in_rounds(asked, stages, ledger, engine(stages)) == 0


def test_a_bad_answer_is_asked_for_again_with_its_error_and_a_lost_row_by_the_next_job(tmp_path):
    asked, stages = requests(5), BatchStages(QUESTIONS)
    conversations = []

    def kind_of(row):
        conversations.append(row["messages"])
        return "garbage" if len(row["messages"]) == 2 and "Title 0 for 3" in row["messages"][1]["content"] else None

    def losing(rows):
        for row in engine(stages, kind_of)(rows):
            lost = json.loads(row["answer"])["user_id"] == "u1"
            yield {"__inference_error__": "out of memory"} if lost else row

    with Ledger(tmp_path / "a.sqlite") as ledger:
        assert score_in_rounds(asked, stages, ledger, losing) == 5  # 4 users, one of them twice
        again = [messages for messages in conversations if len(messages) > 2]
        assert len(again) == 1
        assert [message["role"] for message in again[0]] == ["system", "user", "assistant", "user"]
        assert again[0][2]["content"] == content(again[0], "garbage")
        found = {request.user_id: answer.scores for request, answer in QUESTIONS.stored_answers(asked, ledger)}
        assert found == {user: scores for user, scores in truth(asked).items() if user != "u1"}
        assert score_in_rounds(asked, stages, ledger, engine(stages)) == 1
        assert len(list(QUESTIONS.stored_answers(asked, ledger))) == 5


def test_an_answer_that_used_up_its_tokens_is_told_to_be_brief():
    (request,) = requests(1)
    stages = BatchStages(QUESTIONS)
    row = generate(stages.preprocess(stages.row(request)), "garbage") | {"num_generated_tokens": 280}
    assert "cut off after 280 tokens" in stages.answer(stages.postprocess(row)).error


def test_scores_are_by_place_in_the_prompt():
    (request,) = requests(1)
    stages = BatchStages(QUESTIONS)
    answer = stages.answer(stages.postprocess(generate(stages.preprocess(stages.row(request)))))
    assert answer.scores == tuple(map(score_of, request.titles))
    assert (answer.prompt_tokens, answer.cost) == (500, None)
