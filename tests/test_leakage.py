"""The leakage guard: silent on clean data, loud and exact on each kind of leak."""

import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import LeakageError
from sllmr_plugin.evaluation.leakage import check_leakage
from sllmr_plugin.evaluation.run import train_and_rank
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.scores.table import ScoreTable
from tests.evaluation_cases import catalogue, interactions

DATA = load_interactions(interactions(), catalogue())


def table(pairs, kind="candidate"):
    """A score table of the (user, item) codes in `pairs`, and one candidate more."""
    frame = pd.DataFrame([*pairs, (1, 1)], columns=["user_id", "item_id"]).drop_duplicates()
    return ScoreTable.read(frame.assign(score=0.5, kind=[kind] * (len(frame) - 1) + ["candidate"]))


def names(user, item):
    return f"user {DATA.user_ids[user - 1]!r}, item {DATA.item_ids[item - 1]!r}"


def problems(*args, **kwargs):
    with pytest.raises(LeakageError) as caught:
        check_leakage(*args, **kwargs)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("negatives", [False, True])
def test_what_the_package_builds_is_clean(negatives):
    data = load_interactions(interactions(negatives=negatives), catalogue())
    rows = training_rows(data, negatives=4)
    valid = data.valid[["user", "item"]].to_numpy().tolist()
    assert check_leakage(data, rows, table(valid, kind="probe")) is None
    drawn = pd.DataFrame({"user": rows[0]["user_id"], "item": rows[0]["item_id"]})[rows[1] == 0]
    if not negatives:  # the draw hits test items, as it must when it does not look at them
        assert len(drawn.merge(data.test))


def test_test_interactions_as_probes_are_named_and_counted():
    tests = DATA.test[["user", "item"]].to_numpy().tolist()[5:10]
    (problem,) = problems(DATA, training_rows(DATA), table(tests, kind="probe"))
    by_code = sorted(map(tuple, tests))
    assert problem.startswith("5 probe(s) of the score table are test interactions: " + names(*by_code[0]))
    assert "and 2 more. Take probes from the validation part" in problem
    assert check_leakage(DATA, training_rows(DATA), table(tests, kind="candidate")) is None


@given(split=st.sampled_from(["test", "valid"]), which=st.integers(0, 20), row=st.integers(0, 60))
def test_a_held_out_interaction_among_the_training_rows_is_found_wherever_it_is(split, which, row):
    x, y = training_rows(DATA)
    user, item = getattr(DATA, split)[["user", "item"]].iloc[which]
    x = {name: np.insert(column, row, column[0], axis=0) for name, column in x.items()}
    x["user_id"][row], x["item_id"][row], x["hist_item_id"][row] = user, item, 0
    (problem,) = problems(DATA, (x, np.insert(y, row, 1)))
    assert problem.startswith("1 positive training row(s)")
    assert f"row {row} ({names(user, item)}). Delete these rows" in problem
    assert check_leakage(DATA, (x, np.insert(y, row, 0))) is None


def test_a_test_item_in_a_history_is_found():
    x, y = training_rows(DATA)
    user, item = DATA.test[["user", "item"]].iloc[7]
    row = np.flatnonzero(x["user_id"] == user)[-1]
    x["hist_item_id"][row, 3] = item
    (problem,) = problems(DATA, (x, y))
    assert problem.startswith(f"1 history item(s) of training rows are test or validation interactions: row {row} (")
    held_out = pd.concat([DATA.valid, DATA.test])
    holders = held_out.loc[held_out["item"] == item, "user"]
    other = np.flatnonzero(~np.isin(x["user_id"], holders))[0]
    x["hist_item_id"][row, 3], x["hist_item_id"][other, 0] = 0, item  # another user may have had it
    assert check_leakage(DATA, (x, y)) is None


def test_statistics_that_count_held_out_interactions_are_found():
    everything = pd.concat([DATA.train[DATA.train["label"] == 1], DATA.valid, DATA.test])
    popularity = np.bincount(everything["item"], minlength=DATA.n_items + 1)
    history = np.bincount(everything["user"], minlength=DATA.n_users + 1)
    first, second = problems(DATA, training_rows(DATA), popularity=popularity, history_length=history)
    n_held_out_items = pd.concat([DATA.valid, DATA.test])["item"].nunique()
    assert first.startswith(f"{n_held_out_items} item(s) have a popularity above that of the training part: item ")
    assert second.startswith(f"{DATA.n_users} user(s) have a history length above that of the training part: ")
    assert f"user 'u00': {history[1]} instead of {DATA.history_length[1]}" in second


def test_held_out_interactions_in_the_training_part_leak_everywhere():
    leaky = dataclasses.replace(DATA, train=pd.concat([DATA.train, DATA.test.assign(label=1)]).sort_values("user"))
    kinds = [problem.split(": ")[0].split(" ", 1)[1] for problem in problems(leaky, training_rows(leaky))]
    assert [kind.split()[0] for kind in kinds] == ["positive", "history", "item(s)", "user(s)"]


def test_training_stops_before_it_starts():
    probes = table(DATA.test[["user", "item"]].to_numpy().tolist()[:1], kind="probe")
    with pytest.raises(LeakageError, match="Take probes from the validation part"):
        train_and_rank(
            DATA,
            training_rows(DATA),
            probes,
            backbone="deepfm",
            config=SelectiveConfig(weight=0.0),
            seed=0,
            settings=RunSettings.quick(epochs=1, embedding_dim=4),
            report=lambda epoch, auc: pytest.fail("trained"),
        )


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(LeakageError(["one. Remedy.", "two. Remedy."])))
    assert error.problems == ["one. Remedy.", "two. Remedy."]
    assert str(error).endswith("one. Remedy. Also: two. Remedy.")
