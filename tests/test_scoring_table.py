"""The score table: means and spreads against plain loops, what is missing counted, and the file's origin."""

import statistics
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllmr_plugin import __version__
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, DataError, OrderEchoWarning, ScoreTableError
from sllmr_plugin.scores.origin import PromptOrder, check_parquet_path, read_metadata, write_parquet
from sllmr_plugin.scores.table import ScoreTable
from sllmr_plugin.scoring.requests import ScoredAnswer, ScoringRequest, plan_requests
from sllmr_plugin.scoring.table import auc_interval, build_score_table, write_score_table

CLICKS = pd.DataFrame(
    {
        "user_id": [f"u{user}" for user in range(4) for _ in range(3)],
        "item_id": [f"i{item}" for user in range(4) for item in (user, user + 1, user + 2)],
    }
)
ITEMS = pd.DataFrame({"item_id": [f"i{item}" for item in range(20)], "title": [f"t{item}" for item in range(20)]})
DATA = load_interactions(CLICKS, ITEMS)
# The second of a user's three items is the validation item: the probe.
PAIRS = pd.DataFrame(
    [(f"u{user}", f"i{item}", "candidate") for user in (2, 0, 3) for item in range(8, 12)]
    + [(f"u{user}", f"i{user + 1}", "probe") for user in (0, 3)],
    columns=["user_id", "item_id", "kind"],
)
COLUMNS = ["user_id", "item_id", "score", "kind", "prompt_position", "spread", "n_answers"]


def scored_by(request, score):
    return request, ScoredAnswer({item: score(request, item) for item in request.item_ids})


def by_item(request, item):
    return int(item[1:]) / 20


def test_one_row_a_pair_in_the_order_of_the_table():
    plan = plan_requests(PAIRS, DATA)
    built = build_score_table(plan, [scored_by(request, by_item) for request in plan])
    assert list(built.frame.columns) == COLUMNS
    expected = [
        (user, item, kind)
        for user in ("u2", "u0", "u3")
        for item, kind in PAIRS.loc[PAIRS["user_id"] == user, ["item_id", "kind"]].itertuples(index=False)
    ]
    assert list(built.frame[["user_id", "item_id", "kind"]].itertuples(index=False, name=None)) == expected
    assert built.frame["score"].tolist() == [by_item(None, item) for _, item, _ in expected]
    assert (built.frame["spread"] == 0).all()
    assert (built.frame["n_answers"] == 1).all()
    orders = {request.user_id: request.item_ids for request in plan}
    assert built.frame["prompt_position"].tolist() == [orders[user].index(item) for user, item, _ in expected]
    assert (built.counts.candidates, built.counts.probes, built.counts.pairs) == (12, 2, 14)
    assert str(built.counts) == (
        "3 of 3 requests answered\n12 candidates and 2 probes scored of 14 pairs asked about\n"
        "probes stand above their user's candidates with AUC 0.000 [0.00, 0.74] (2 probes of 2 users)\n"
        # i1 and i4 are scored below i8 to i11; 0, 0 and the two more, 0 and 1: 1/4 + 1.96 * sqrt(1/4) / sqrt(4)
        + str(built.counts.prompt_order)
    )


def auc_by_hand(frame):
    scored, users = frame[frame["n_answers"] > 0], []
    for _, rows in scored.groupby("user_id"):
        others = rows.loc[rows["kind"] == "candidate", "score"]
        for probe in rows.loc[rows["kind"] == "probe", "score"]:
            if len(others):
                users.append(statistics.fmean([(probe > other) + 0.5 * (probe == other) for other in others]))
    return statistics.fmean(users) if users else None


# Each (request, item) gets a score, a gap, or the whole request goes unanswered; answers come in any order.
ANSWERS = st.lists(
    st.none() | st.lists(st.none() | st.floats(0, 1), min_size=5, max_size=5), min_size=9, max_size=9
).filter(lambda answers: any(score is not None for answer in answers if answer for score in answer[:4]))


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.OrderEchoWarning")  # some of the scores are in order
@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.randoms(use_true_random=False), st.sampled_from(["leave_out", "half"]))
def test_mean_spread_and_counts_against_a_plain_loop(values, random, missing):
    plan = plan_requests(PAIRS, DATA, repeats=3)
    answers = []
    for request, scores in zip(plan, values, strict=True):
        if scores is not None:
            known = {item: score for item, score in zip(request.item_ids, scores, strict=False) if score is not None}
            answers.append((request, ScoredAnswer(known, n_unasked=2, n_duplicates=1)))
    random.shuffle(answers)
    built = build_score_table(plan, iter(answers), missing=missing)

    rows, n_missing, n_unanswered = [], 0, 0
    for user, item, kind in plan.pairs.itertuples(index=False):
        of_user = sorted((r for r in answers if r[0].user_id == user), key=lambda r: r[0].repeat)
        scores = [answer.scores[item] for _, answer in of_user if item in answer.scores]
        n_unanswered += not of_user
        if of_user and not scores:
            n_missing += 1
        if scores or (of_user and missing == "half"):
            mean, spread = (statistics.fmean(scores), statistics.pstdev(scores)) if scores else (0.5, 0.0)
            rows.append((user, item, mean, kind, of_user[0][0].item_ids.index(item), spread, len(scores)))
    expected = pd.DataFrame(rows, columns=COLUMNS)
    pd.testing.assert_frame_equal(built.frame, expected, check_dtype=False, atol=1e-12)
    counts = built.counts
    assert (counts.requests, counts.answered, counts.pairs) == (9, len(answers), 14)
    assert (counts.missing, counts.unanswered) == (n_missing, n_unanswered)
    assert (counts.unasked, counts.duplicates) == (2 * len(answers), len(answers))
    assert counts.probe_auc == pytest.approx(auc_by_hand(expected), abs=1e-12)
    assert (counts.candidates, counts.probes) == tuple((expected["kind"] == k).sum() for k in ("candidate", "probe"))


def order_by_hand(answers):
    """Weighted mean over answers of Pearson's correlation of average ranks."""

    def ranks(values):
        return [
            sum(other < value for other in values) + sum(other == value for other in values) / 2 for value in values
        ]

    total = weight = 0
    for request, answer in answers:
        rows = [(place, answer.scores[item]) for place, item in enumerate(request.item_ids) if item in answer.scores]
        places, scores = zip(*rows, strict=True)
        if len(set(scores)) > 1:
            total += (len(rows) - 1) * statistics.correlation(ranks(places), ranks(scores))
            weight += len(rows) - 1
    return total / weight


def test_the_correlation_with_the_prompts_order_is_that_of_single_answers():
    plan = plan_requests(PAIRS, DATA, repeats=3)
    rng = np.random.default_rng(5)
    answers = []
    for request in plan:
        kept = list(request.item_ids)[: rng.integers(2, len(request.item_ids) + 1)]
        answers.append((request, ScoredAnswer({item: float(rng.integers(0, 4) / 4) for item in kept})))
    answers[0] = answers[0][0], ScoredAnswer(dict.fromkeys(answers[0][0].item_ids, 0.5))  # has no order
    order = build_score_table(plan, answers).counts.prompt_order
    assert order.correlation == pytest.approx(order_by_hand(answers), abs=1e-12)
    assert order.answers <= 8
    assert not order.is_echo


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(("direction", "word"), [(-1, "first"), (1, "last")])
def test_an_echo_of_the_prompts_order_is_warned_of_whatever_its_direction(repeats, direction, word):
    plan = plan_requests(PAIRS, DATA, repeats=repeats)

    def echo(request, item):
        return 0.5 + direction * request.item_ids.index(item) / 20

    with pytest.warns(OrderEchoWarning, match=rf"stands {word} is scored highest.*--repeats"):
        counts = build_score_table(plan, [scored_by(request, echo) for request in plan]).counts
    assert counts.prompt_order.correlation == pytest.approx(direction)
    assert counts.prompt_order.answers == 3 * repeats
    assert f"place in the prompt {direction:.2f} ({3 * repeats} answers)" in str(counts)


def test_scores_that_order_nothing_have_no_correlation_and_no_warning():
    plan = plan_requests(PAIRS, DATA)
    counts = build_score_table(plan, [scored_by(request, lambda request, item: 0.5) for request in plan]).counts
    assert counts.prompt_order is None
    assert "no answer gives two candidates different scores" in str(counts)


@pytest.mark.parametrize(
    ("sizes", "echo"),
    [([2], False), ([4], False), ([5], True), ([2, 2, 2], False), ([2, 2, 2, 2], True), ([20], True)],
)
def test_what_shuffling_alone_may_bring_about_is_no_echo(sizes, echo):
    answer = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    order = PromptOrder.of(answer, place, 1 - place / 100)
    assert order.correlation == pytest.approx(-1)
    assert order.is_echo == echo  # two standard deviations: 2 / sqrt(sum of sizes - 1)


@pytest.mark.parametrize(("correlation", "echo"), [(0.8, True), (0.79, False), (-0.8, True), (-0.79, False)])
def test_the_warning_begins_at_four_fifths(correlation, echo):
    assert PromptOrder(correlation, 100, 0.02).is_echo == echo


@pytest.mark.parametrize(
    ("aucs", "low", "high"),
    [
        # By hand, with 0 and 1 added: mean 1/2, variance 1/4 + 1/4 over 2, standard error 0.5 / sqrt(3)
        ([0.5], 0.0, 1.0),
        ([1.0] * 10, 11 / 12 - 1.96 * (12 * (1 / 12) * (11 / 12) / 11) ** 0.5 / 12**0.5, 1.0),
        ([0.0] * 4 + [1.0] * 4, 0.5 - 1.96 * (10 / 4 / 9) ** 0.5 / 10**0.5, 0.5 + 1.96 * (10 / 4 / 9) ** 0.5 / 10**0.5),
    ],
)
def test_few_users_who_are_all_alike_do_not_look_certain(aucs, low, high):
    assert auc_interval(np.array(aucs)) == pytest.approx((low, high), abs=1e-12)


def test_missing_candidates_are_left_out_or_half_and_marked():
    plan = plan_requests(PAIRS, DATA)
    first, *_ = plan
    answers = [(first, ScoredAnswer({"i8": 0.9}, missing=("i9", "i10", "i11")))]
    left_out = build_score_table(plan, answers)
    assert left_out.frame[["item_id", "score"]].to_numpy().tolist() == [["i8", 0.9]]
    half = build_score_table(plan, answers, missing="half").frame
    assert half.sort_values("item_id")[["item_id", "score", "n_answers"]].to_numpy().tolist() == [
        ["i10", 0.5, 0],
        ["i11", 0.5, 0],
        ["i8", 0.9, 1],
        ["i9", 0.5, 0],
    ]
    assert set(half["user_id"]) == {"u2"}  # nobody asked about the others: no score is made up for them
    assert "  3 pairs that no answer scores" in str(left_out.counts)
    assert "  10 pairs of users without any answer" in str(left_out.counts)


def test_whole_number_ids():
    clicks = CLICKS.apply(lambda column: column.str[1:].astype(int))
    items, pairs = (
        ITEMS.assign(item_id=range(20)),
        PAIRS.assign(**{c: PAIRS[c].str[1:].astype(int) for c in COLUMNS[:2]}),
    )
    plan = plan_requests(pairs, load_interactions(clicks, items))
    built = build_score_table(plan, [scored_by(request, lambda _, item: item / 20) for request in plan])
    assert built.frame["user_id"].dtype == built.frame["item_id"].dtype == np.int64
    assert (built.frame["score"] == built.frame["item_id"] / 20).all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r: (r, ScoredAnswer({"i8": 1.5})), r"user 'u2' scores an item outside \[0, 1\]. Rescale"),
        (lambda r: (r, ScoredAnswer({"i8": float("inf")})), "user 'u2' scores an item outside"),
        (lambda r: (r, ScoredAnswer({"i8": -0.1})), "user 'u2' scores an item outside"),
        (lambda r: (r, ScoredAnswer({"i19": 0.5})), "user 'u2' scores item 'i19', which was not asked about. Let the"),
        (
            lambda r: (ScoringRequest("u9", (), ("i8",), ("t8",)), ScoredAnswer({"i8": 0.5})),
            "the answer for user 'u9' is not of this run. Give the requests",
        ),
        (
            lambda r: (ScoringRequest("u2", (), ("i19",), ("t19",)), ScoredAnswer({"i19": 0.5})),
            "the answer for user 'u2' is not of this run",
        ),
        (
            lambda r: (ScoringRequest("u2", (), r.item_ids, r.titles, repeat=1), ScoredAnswer({"i8": 0.5})),
            "the answer for user 'u2' is not of this run",
        ),
    ],
)
def test_an_answer_that_cannot_be_is_refused(answer, message):
    plan = plan_requests(PAIRS, DATA)
    first, second, _ = plan
    with pytest.raises(ScoreTableError, match=message):
        build_score_table(plan, [scored_by(second, by_item), answer(first)])


def test_nothing_scored_is_an_error():
    plan = plan_requests(PAIRS, DATA)
    with pytest.raises(ScoreTableError, match=r"not one of 14 pairs was scored \(0 of 3 requests were answered\)"):
        build_score_table(plan, [])
    with pytest.raises(ScoreTableError, match="not one of 14 pairs"):
        build_score_table(plan, [(next(iter(plan)), ScoredAnswer({}))], missing="half")
    with pytest.raises(ConfigError, match="missing is 'zero'; write one of leave_out, half"):
        build_score_table(plan, [], missing="zero")


def test_the_file_names_its_origin_and_is_read_by_score_table(tmp_path):
    plan = plan_requests(PAIRS, DATA)
    built = build_score_table(plan, [scored_by(request, by_item) for request in plan])
    path = tmp_path / "new" / "scores.parquet"
    before = datetime.now(timezone.utc).replace(microsecond=0)
    write_score_table(built, path, scorer="openai", model="m", prompt_hash="abc", settings={"repeats": 1})
    pd.testing.assert_frame_equal(pd.read_parquet(path), built.frame)
    origin = read_metadata(path)
    assert (origin["scorer"], origin["model"], origin["prompt_hash"]) == ("openai", "m", "abc")
    assert origin["settings"] == {"repeats": 1}
    assert origin["counts"]["candidates"] == 12
    assert origin["package_version"] == __version__
    assert before <= datetime.fromisoformat(origin["created"]) <= datetime.now(timezone.utc)

    table = ScoreTable.read(path, user_index=DATA.user_index, item_index=DATA.item_index)
    assert (table.coverage.n_candidates, table.coverage.n_probes, table.coverage.dropped) == (12, 2, {})
    old = tmp_path / "old.parquet"
    built.frame[["user_id", "item_id", "score"]].to_parquet(old)  # as tables were before these columns
    assert ScoreTable.read(old, user_index=DATA.user_index, item_index=DATA.item_index).coverage.n_candidates == 14
    assert read_metadata(old) == {}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"user_id": [1]})
    write_parquet(frame, path, {"number": 1})

    def full(table, where):
        where.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(DataError, match="cannot be written .No space left on device.; choose another place"):
        write_parquet(frame, path, {"number": 2})
    assert read_metadata(path)["number"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.parquet"]


def test_file_names_and_foreign_files_are_refused(tmp_path):
    for name in ("table.csv", "table"):
        with pytest.raises(DataError, match="cannot be written as parquet; give a file name that ends in .parquet"):
            check_parquet_path(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match="cannot be written as parquet"):
        check_parquet_path(tmp_path / "folder.parquet")
    with pytest.raises(DataError, match="would be lost; write to another one"):
        check_parquet_path(tmp_path / "in.parquet", (None, tmp_path / "x" / ".." / "in.parquet"))
    assert check_parquet_path(tmp_path / "out.parquet", (tmp_path / "in.parquet",)) == tmp_path / "out.parquet"
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("text.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=f"{name}: cannot be read as parquet"):
            read_metadata(tmp_path / name)
