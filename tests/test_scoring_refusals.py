"""What a server refuses: for good and kept, in another form and asked so, or with advice that fits."""

import doctest
import json
import pickle
import sqlite3

import pytest

from sllmr_plugin.errors import ScoringStoppedError, ServerError
from sllmr_plugin.scoring import servers as server_errors
from sllmr_plugin.scoring.client import OpenAIClient
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.ledger_file import LedgerReader, refused
from sllmr_plugin.scoring.prices import Price
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.run import run
from sllmr_plugin.scoring.servers import ServerForm, cause_of, words

from .test_scoring_run import _environment, requests, setting, truth  # noqa: F401  (fixtures)

QUESTIONS = Questions("tiny")
MODERATION = (
    403,
    {"error": {"code": 403, "message": "Input was flagged by moderation", "metadata": {"reasons": ["x"]}}},
)
CONTEXT = (400, {"error": {"message": "This model's maximum context length is 2048 tokens.", "code": None}})
FORBIDDEN = (403, "no")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr("sllmr_plugin.scoring.client._BROKEN_SECONDS", 0.01)


def of_users(*numbers):
    """Tell whether a body is about one of the users of `requests`."""
    return lambda body: any(f'History of {number}\\"' in json.dumps(body["messages"]) for number in numbers)


# -- requests that are refused for good ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [MODERATION, CONTEXT, FORBIDDEN, (400, "?"), (413, "<html><body>Too big</body></html>")]
)
def test_what_is_refused_for_good_is_kept_and_stops_neither_this_run_nor_a_later_one(setting, said):  # noqa: F811
    bad = of_users(0, 1, 2, 3, 4, 5, 6, 9)
    here, asked = setting(lambda number, body: said if bad(body) else None), requests(10)
    summary = here.run(asked)
    assert (summary.requests, summary.asked, summary.refused, summary.unanswered) == (10, 2, 8, 0)
    assert "8 requests are refused by the server and not asked again" in str(summary)
    assert here.scores(asked) == {user: scores for user, scores in truth(asked).items() if user in ("u7", "u8")}
    n_seen = len(here.server.seen)
    again = here.run(asked)
    assert (again.asked, again.refused, again.reused, len(here.server.seen)) == (0, 8, 2, n_seen)
    more = here.run(requests(13))
    assert (more.asked, more.refused, more.reused, len(here.server.seen)) == (3, 8, 2, n_seen + 3)
    with LedgerReader(here.path) as reader:
        found = refused(reader)
    assert sorted(found["user_id"]) == ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u9"]
    with Ledger(here.path) as ledger:
        assert ledger.forget_refused("nowhere said") == 0
        assert ledger.forget_refused() == 8
    here.server.plan = lambda number, body: None
    assert here.run(asked).asked == 8
    assert here.scores(asked) == truth(asked)


def test_a_refused_second_question_ends_the_conversation(setting):  # noqa: F811
    here, asked = setting(lambda number, body: "garbage" if len(body["messages"]) == 2 else CONTEXT), requests(2)
    summary = here.run(asked)
    assert (summary.asked, summary.refused, summary.failed) == (2, 2, 0)
    with pytest.raises(ScoringStoppedError, match="refuses every request"):
        here.run(asked)
    assert len(here.server.seen) == 4


def test_a_403_of_every_request_is_the_keys_and_is_not_kept(setting):  # noqa: F811
    here, asked = setting(lambda number, body: FORBIDDEN), requests(100)
    with pytest.raises(ScoringStoppedError, match="nothing works any more.*403: no. Check OPENAI_API_KEY.*0 answers"):
        here.run(asked)
    assert len({seen.text for seen in here.server.seen}) == 20
    here.server.plan = lambda number, body: None
    assert here.run(asked).asked == 100


def test_a_key_that_dies_amid_a_run_with_403_takes_no_request_with_it(setting):  # noqa: F811
    here, asked = setting(lambda number, body: FORBIDDEN if number >= 10 else None), requests(100)
    with pytest.raises(ScoringStoppedError, match="10 answers of this run"):
        here.run(asked)
    here.server.plan = lambda number, body: None
    assert here.run(asked).asked == 90


def test_a_filter_that_refuses_many_in_a_row_stops_nothing(setting):  # noqa: F811
    here = setting(lambda number, body: MODERATION if 0 < number < 60 else None)
    summary = here.run(requests(70))
    assert (summary.asked, summary.refused) == (11, 59)


def test_prompts_that_are_all_too_long_are_told_with_the_way_out(setting):  # noqa: F811
    here = setting(lambda number, body: CONTEXT)
    with pytest.raises(
        ScoringStoppedError, match="refuses every request.*--history-length.*--per-user.*forget-refused"
    ):
        here.run(requests(3))
    with pytest.raises(ScoringStoppedError, match="refuses every request.*context length.*forget-refused"):
        here.run(requests(3))
    assert len(here.server.seen) == 3
    with pytest.raises(ScoringStoppedError, match="nothing works any more.*--history-length"):
        here.run(requests(500))
    assert len(here.server.seen) == 3 + 20


def test_a_kill_before_a_refusal_is_kept_costs_nothing_and_asks_again(setting, monkeypatch):  # noqa: F811
    class Killed(BaseException):
        pass

    def killed(self, refusal, mark=None):
        raise Killed

    here, asked = setting([None, MODERATION]), requests(3)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "refuse", killed)
        with pytest.raises(Killed):
            here.run(asked, concurrency=1, price=Price(1, 1))
    summary = here.run(asked, price=Price(1, 1))
    assert (summary.reused, summary.asked) == (1, 2)
    answers = sqlite3.connect(here.path).execute("SELECT sum(cost) FROM answers").fetchone()[0]
    assert summary.total_cost == pytest.approx(answers)


def test_counts_in_messages_are_those_of_the_ledger(setting):  # noqa: F811
    """Of four requests in flight one ends the run at once; the answers to the others come later, and count."""
    here = setting(lambda number, body: None if number == 0 else "401" if number == 4 else "hang:0.3")
    with pytest.raises(ScoringStoppedError) as caught:
        here.run(requests(30))
    in_ledger = sqlite3.connect(here.path).execute("SELECT count(*) FROM answers").fetchone()[0]
    assert in_ledger == 4  # the first one alone, and the three beside the one that was refused
    assert f"({in_ledger} answers of this run are in" in str(caught.value)


# -- the form of request that a server takes -----------------------------------------------------------------------


def openai_error(message, **more):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


BODIES = [
    (400, openai_error("Failed to parse grammar")),
    (400, openai_error("Failed to generate JSON. Please adjust your prompt.", code="json_validate_failed")),
    (400, {"object": "error", "message": "features not supported by xgrammar", "code": 400}),
    (400, [{"error": {"code": 400, "message": "Request contains an invalid argument.", "status": "INVALID_ARGUMENT"}}]),
    (422, {"detail": "not so"}),
    (422, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text'"}]}),
    (422, "missing field `value` at line 1 column 168"),
    (400, {"error": "cannot unmarshal"}),
    (400, "<html><head><title>Bad Request</title></head></html>"),
    (400, ""),
    (500, {"error": {"message": "EngineCore encountered an issue.", "code": 500}}),
    (200, {"error": {"message": "Provider returned error", "code": 400}}),
]
WANTS = {
    "no schema": (lambda body: (body.get("response_format") or {}).get("type") == "json_schema", "json_object"),
    "no format": (lambda body: "response_format" in body, "text"),
    "another limit": (lambda body: "max_tokens" in body, "json_schema"),
    "no temperature": (lambda body: "temperature" in body, "json_schema"),
    "no system message": (lambda body: body["messages"][0]["role"] == "system", "json_schema"),
}


@pytest.mark.parametrize(
    ("wants", "said"),
    [*(("no schema", said) for said in BODIES), *((wants, said) for wants in WANTS for said in BODIES[4::4])],
    ids=str,
)
def test_the_form_that_a_server_takes_is_found_whatever_it_says_and_kept(setting, wants, said):  # noqa: F811
    refuses, answer_format = WANTS[wants]
    here, asked = setting(lambda number, body: said if refuses(body) else None), requests(2)
    here.run(asked)
    assert here.scores(asked) == truth(asked)
    n_seen = len(here.server.seen)
    assert not any(refuses(seen.body) for seen in here.server.seen[-2:])  # found out once
    assert here.run(requests(3)).asked == 1
    assert not any(refuses(seen.body) for seen in here.server.seen[n_seen:])  # and not again
    with Ledger(here.path) as ledger:
        form = ledger.form_of(here.server.base_url, "tiny")
        assert ledger.form_of(here.server.base_url, "another") is None
    assert form.answer_format == answer_format  # nothing else is given up


def test_a_form_without_anything_is_found_too(setting):  # noqa: F811
    def refuses(number, body):
        plain = not {"response_format", "temperature", "max_tokens"} & body.keys()
        return None if plain and body["messages"][0]["role"] == "user" else (400, "no")

    here, asked = setting(refuses), requests(4)
    summary = here.run(asked)
    assert here.scores(asked) == truth(asked)
    assert "takes no temperature" in str(summary)
    assert "--temperature none" in str(summary)
    with Ledger(here.path) as ledger:
        noted = [ledger.get(QUESTIONS.first(request).key).request for request in asked]
    assert [one["left_out"] for one in noted] == [["temperature", "system"]] * 4
    first = here.server.seen[-1].body["messages"][0]["content"]
    system, user = (message["content"] for message in QUESTIONS.messages(asked[3]))
    assert first == f"{system}\n\n{user}"


def test_what_the_server_names_is_left_out_and_nothing_else(setting):  # noqa: F811
    def refuses(number, body):
        if "max_tokens" in body:
            return 400, openai_error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return 400, openai_error("Only the default value is supported.", param="temperature")
        if body["messages"][0]["role"] == "system":
            return 400, openai_error("'messages[0].role' does not support 'system' with this model.")
        return None

    here = setting(refuses)
    here.run(requests(1))
    assert len(here.server.seen) == 4
    with Ledger(here.path) as ledger:
        form = ledger.form_of(here.server.base_url, "tiny")
    assert form == ServerForm("json_schema", "max_completion_tokens", temperature=False, system=False)


def test_an_accident_at_the_first_request_changes_no_form(setting):  # noqa: F811
    here = setting(["500"])
    here.run(requests(2))
    assert all(seen.body["response_format"]["type"] == "json_schema" for seen in here.server.seen)


def test_a_refusal_after_an_answer_is_that_of_its_request(setting):  # noqa: F811
    here, asked = setting(lambda number, body: (400, "?") if of_users(2)(body) else None), requests(6)
    assert here.run(asked).refused == 1
    assert len(here.server.seen) == 6
    assert all(seen.body["response_format"]["type"] == "json_schema" for seen in here.server.seen)


def test_one_answer_that_will_not_fit_the_schema_is_asked_for_without_it(setting):  # noqa: F811
    said = 400, openai_error("Failed to generate JSON. See 'failed_generation'.", code="json_validate_failed")
    fails = of_users(1)

    def plan(number, body):
        return said if fails(body) and body.get("response_format", {}).get("type") == "json_schema" else None

    here, asked = setting(plan), requests(4)
    here.run(asked)
    assert here.scores(asked) == truth(asked)
    formats = [seen.body["response_format"]["type"] for seen in here.server.seen]
    assert sorted(formats) == ["json_object"] + ["json_schema"] * 5


def test_a_form_of_another_version_is_read_as_far_as_it_is_known():
    assert ServerForm.from_json('{"temperature": false, "later": 1}') == ServerForm(temperature=False)
    for text in ("", "[]", "7", '{"answer_format": "xml"}', "null"):
        assert ServerForm.from_json(text) == ServerForm()
    form = ServerForm("text", "max_completion_tokens", system=False)
    assert ServerForm.from_json(form.to_json()) == form


# -- what a server says in place of an answer ----------------------------------------------------------------------


def test_an_error_within_an_answer_is_that_error_and_costs_nothing(setting):  # noqa: F811
    errors = [
        (200, {"error": {"code": 502, "message": "Provider returned error"}}),
        (200, {"error": "overloaded", "choices": None}),
        (200, {"choices": [{"error": {"code": 503, "message": "gone"}, "finish_reason": "error", "index": 0}]}),
        (200, [{"error": {"message": "try again"}}]),
    ]
    here, asked = setting([None, *errors]), requests(2)
    summary = here.run(asked, concurrency=1, price=Price(1, 1))
    assert here.scores(asked) == truth(asked)
    assert sqlite3.connect(here.path).execute("SELECT count(*) FROM unanswered").fetchone() == (0,)
    answers = sqlite3.connect(here.path).execute("SELECT sum(cost) FROM answers").fetchone()[0]
    assert summary.total_cost == pytest.approx(answers)


def test_a_refusal_within_an_answer_is_kept(setting):  # noqa: F811
    here = setting([None, (200, {"error": {"code": 403, "message": "flagged"}})])
    assert here.run(requests(2), concurrency=1).refused == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("<!DOCTYPE html><html><title>Sign in</title></html>", r"a web page.*\(Sign in\).*--base-url"),
        (
            'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n',
            "stream of events.*Switch streaming off",
        ),
        (": PROCESSING\n\ndata: {}\n", "stream of events"),
    ],
)
def test_pages_and_streams_are_told_at_the_first_request(setting, body, sentence):  # noqa: F811
    here = setting(lambda number, _: (200, body))
    with pytest.raises(ScoringStoppedError, match=sentence):
        here.run(requests(9))
    assert len(here.server.seen) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"choices": []}, "its list of choices has no entry"),
        ("", "the answer is empty"),
        ("certainly", "the answer is not JSON"),
        (None, "not a chat completion but null"),
        ({"status": "ok"}, 'not a chat completion: .*"status": "ok"'),
    ],
)
def test_an_answer_that_is_none_is_told_in_a_sentence(setting, body, sentence):  # noqa: F811
    here = setting(lambda number, _: (200, "null" if body is None else body))
    with pytest.raises(ScoringStoppedError, match=sentence):
        here.run(requests(9), retries=1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "a", "code": 1}}, "a"),
        ([{"error": {"message": "a"}}, {"error": {"message": "b"}}], "a; b"),
        ({"error": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"loc": ["body", 0, "x"], "msg": "a"}, {"msg": "b"}]}, "body.0.x: a; b"),
        ({"object": "error", "message": "a"}, "a"),
        ({"error": True, "message": "a"}, "a"),
        ({"error": "Bad Request", "message": "a"}, "Bad Request; a"),
        ({"errors": ["a", "b"]}, "a; b"),
        ({"error": {"message": "a", "metadata": {"raw": "b", "provider_name": "c"}}}, "a (b)"),
        ({"error": {"message": "a", "metadata": {"reasons": ["b", "c"]}}}, "a (b; c)"),
        ({"error": {"message": "a", "param": "b"}}, "a (b)"),
        ({"odd": 7}, '{"odd": 7}'),
        ("plain", "plain"),
        ("<html><head><title>a</title></head><body>b</body></html>", "a"),
        ("<html><style>x</style><body><h1>a</h1> b</body></html>", "a b"),
        (None, ""),
        ({}, ""),
    ],
)
def test_the_words_of_an_error_are_found_in_any_form(body, expected):
    assert words(body) == expected


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("This model's maximum context length is 2048 tokens. You requested 2448, max_tokens is too large", "context"),
        ("the request exceeds the available context size, try increasing it", "context"),
        ("prompt is too long: 210000 tokens > 200000 maximum", "context"),
        ("The response was filtered due to the prompt triggering Azure OpenAI's content management policy", "filter"),
        ("Content Exists Risk", "filter"),
        ("data_inspection_failed", "filter"),
        ("Insufficient Balance", "credit"),
        ("This request requires more credits, or fewer max_tokens", "credit"),
        ("xyz is not a valid model ID", "model"),
        ("Invalid model name passed in model=xyz. Call `/v1/models` to view available models for your key.", "model"),
        ("The model `xyz` does not exist or you do not have access to it.", "model"),
        ("API key not valid. Please pass a valid API key.", "key"),
        ("Authentication Error, Invalid proxy server token passed", "key"),
        ("You are not allowed to request logprobs from this model.", "logprobs"),
        ("parameter.enable_thinking must be set to false for non-streaming calls", "thinking"),
        ("'temperature' does not support 0 with this model. Only the default (1) value is supported.", "temperature"),
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", "limit"),
        ("System role not supported", "system"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", "system"),
        ("Developer instruction is not enabled for models/gemma-3", "system"),
        ("The specified schema produces a constraint that has too many states for serving.", "format"),
        ("Invalid JSON: Unexpected token", None),
        ("Request contains an invalid argument.", None),
    ],
)
def test_what_a_server_means_is_told_apart(said, cause):
    assert cause_of(said) == cause


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [
        (400, "API key not valid.", "OPENAI_API_KEY"),
        (400, "Invalid model name passed in model=tiny", "--model tiny"),
        (402, "Payment required", "Top up"),
        (400, "parameter.enable_thinking must be set to false", r'--extra-body \'{"chat_template_kwargs": {"enable_th'),
        (422, "temperature must be strictly positive", "--temperature none"),
        (422, "max_tokens: extra inputs are not permitted", "--max-tokens none"),
        (403, "You are not allowed to request logprobs", "Leave out --logprobs"),
        (405, "Method Not Allowed", "--base-url"),
    ],
)
def test_what_no_request_can_get_past_stops_at_once_with_advice_that_fits(setting, status, said, advice):  # noqa: F811
    here = setting(lambda number, body: (status, {"error": {"message": said}}))
    with pytest.raises(ScoringStoppedError, match=advice) as caught:
        here.run(requests(30), Questions("tiny", top_logprobs=5))
    assert said.rstrip(".") in str(caught.value)
    assert len({seen.text for seen in here.server.seen}) == 1


def test_the_advice_for_a_system_message_comes_where_leaving_it_out_does_not_help(setting):  # noqa: F811
    here = setting(lambda number, body: (400, "System role not supported"))
    with pytest.raises(ScoringStoppedError, match=r"--template without a \[system\] section"):
        here.run(requests(2))


def test_an_error_is_the_same_after_a_journey_between_processes():
    error = ServerError("slow", "limited", 3.0, 429, "credit", "Wait.")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == ("slow. Wait.", vars(error))


def test_the_examples_hold():
    assert doctest.testmod(server_errors).failed == 0


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "api.example.com/v1", "//host/v1", "http://", "http://:80/v1"]
)
def test_an_address_without_a_scheme_or_host_fails_at_once(address):
    with pytest.raises(ServerError, match=r"--base-url.*http://localhost:8000/v1") as caught:
        OpenAIClient("tiny", base_url=address)
    assert caught.value.kind == "hopeless"


def test_a_wrong_address_of_the_environment_is_named_as_such(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000/v1")
    with pytest.raises(ServerError, match="OPENAI_BASE_URL localhost"):
        OpenAIClient("tiny")


def test_a_query_stays_at_the_end_of_the_address(setting, tmp_path):  # noqa: F811
    here = setting()
    client = OpenAIClient("tiny", base_url=f"{here.server.base_url}?api-version=2024-10-21&empty=")
    with Ledger(tmp_path / "q.sqlite") as ledger:
        assert run(requests(1), QUESTIONS, client, ledger, verbose=False).asked == 1
    assert here.server.seen[0].path == "/v1/chat/completions?api-version=2024-10-21&empty="


def test_a_server_is_named_without_the_secrets_of_its_address():
    client = OpenAIClient("tiny", base_url="http://host/v1/?api-key=SECRET12345")
    assert "SECRET12345" not in client.address
