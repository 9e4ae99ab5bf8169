"""A student of the LLM: its features, what it never sees, when it is refused, and the table that it extends."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import nn

from sllmr_plugin import ScoreTable, extend_scores, load_interactions
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.negatives import UnseenItems
from sllmr_plugin.errors import CoverageError, CoverageWarning, DataError, NotLearntError, ScoreTableError
from sllmr_plugin.evaluation.extend import draw_distinct, student_features
from sllmr_plugin.evaluation.student_report import Agreement
from sllmr_plugin.knowledge.pair_features import PairFeatures, text_vectors
from sllmr_plugin.knowledge.student import CrossFitted
from sllmr_plugin.scores.arrays import UserScores

GENRES, PER_GENRE, N_USERS, N_SCORED, PER_USER = 6, 10, 90, 40, 20
SMALL = {"items_per_user": 12, "rank_items": 40, "folds": 3, "verbose": False}


def catalogue(rng):
    """Titles share a word within a genre and none across."""
    names = [f"genre{g} name{g}x{k} w{rng.integers(9)}of{g}" for g in range(GENRES) for k in range(PER_GENRE)]
    return pd.DataFrame({"item_id": [f"i{k:02d}" for k in range(len(names))], "title": names})


def planted(score):
    """Users stay in one genre; `score(genre_is_the_users, rng)` is the LLM. Returns interactions, items, scores."""
    rng = np.random.default_rng(1)
    items = catalogue(rng)
    rows, told = [], []
    for user in range(N_USERS):
        genre = user % GENRES
        own = rng.permutation(PER_GENRE)[:5] + genre * PER_GENRE
        splits = ["train"] * 3 + ["valid", "test"]
        rows += [(f"u{user:02d}", f"i{k:02d}", n, split) for n, (k, split) in enumerate(zip(own, splits, strict=True))]
        if user < N_SCORED:
            asked = rng.choice(np.setdiff1d(np.arange(len(items)), own[:4]), PER_USER, replace=False)
            told += [(f"u{user:02d}", f"i{k:02d}", score(k // PER_GENRE == genre, rng), "candidate") for k in asked]
            if user % 4 == 0:
                told.append((f"u{user:02d}", f"i{own[3]:02d}", score(True, rng), "probe"))
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "position", "split"])
    return interactions, items, pd.DataFrame(told, columns=["user_id", "item_id", "score", "kind"])


def rule(is_own, rng):
    """0.2, or 0.8 for the user's genre, and noise of at most 0.05: equal genres are never more than 0.1 apart."""
    return 0.2 + 0.6 * is_own + rng.uniform(-0.05, 0.05)


@pytest.fixture(scope="module")
def world():
    return planted(rule)


@pytest.fixture(scope="module")
def extended(world, tmp_path_factory):
    interactions, items, scores = world
    out = tmp_path_factory.mktemp("extend") / "extended.parquet"
    return extend_scores(scores, interactions, items, out=out, **SMALL)


# ---------------------------------------------------------------------- what is learnt, and what is refused


def test_a_rule_of_texts_is_learnt(extended):
    found = extended.agreement
    assert (found.n_users, found.n_pairs) == (N_SCORED, N_SCORED * PER_USER)
    # About 1 in 6 candidates is of the user's genre: the rule's variance is 0.36 * 5/36 = 0.05, the noise's 0.1^2 / 12,
    # so who knows the rule alone has a correlation of sqrt(0.05 / 0.05083) = 0.99, and all orders right.
    assert found.correlation > 0.95
    assert found.same_order > 0.98
    assert not extended.is_worse
    # Its genre has 10 items, 3 in training: of the 56 that are unseen, 6 are as good as the validation item.
    assert extended.ranked[0].auc == pytest.approx(1 - 6 / 56 / 2, abs=0.04)
    assert [one.name for one in extended.ranked] == ["student", "popularity", "content", "content+popularity"]


def test_random_scores_are_refused_and_nothing_is_written(tmp_path, capsys):
    interactions, items, scores = planted(lambda is_own, rng: rng.uniform())
    out = tmp_path / "extended.parquet"
    with pytest.raises(NotLearntError, match="clearly worse than what costs less") as raised:
        extend_scores(scores, interactions, items, out=out, **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert raised.value.report.is_worse
    assert abs(raised.value.report.agreement.correlation) < 0.25
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    anyway = extend_scores(scores, interactions, items, out=out, write_anyway=True, **SMALL)
    assert anyway.path == out
    assert len(pd.read_parquet(out)) == len(anyway.frame)


class Oracle(nn.Module):
    """Knows the validation items."""

    def __init__(self, data):
        super().__init__()
        self.feature_index = {"user_id": (0, 1), "item_id": (1, 2)}
        self.known = nn.Parameter(torch.zeros(data.n_users + 1, data.n_items + 1), requires_grad=False)
        self.known[data.valid["user"].tolist(), data.valid["item"].tolist()] = 1.0

    def forward(self, rows):
        return self.known[rows[:, 0].long(), rows[:, 1].long()][:, None]


def test_the_student_has_to_beat_a_backbone_that_is_given(world):
    interactions, items, scores = world
    data = load_interactions(interactions, items)
    with pytest.raises(NotLearntError, match="1.0000 of Oracle"):
        extend_scores(scores, data, backbone=Oracle(data), **SMALL)


# ---------------------------------------------------------------------- the table


def test_the_llm_rows_stay_and_the_students_follow(world, extended):
    interactions, items, scores = world
    frame = pd.read_parquet(extended.path)
    of_llm, of_student = frame[frame["source"] == "llm"], frame[frame["source"] == "student"]
    pd.testing.assert_frame_equal(of_llm[list(scores.columns)], scores, check_dtype=False)
    assert of_llm["spread"].isna().all()
    assert of_student["spread"].between(0, 0.5).all()
    assert of_student["score"].between(0, 1).all()

    candidates = of_student[of_student["kind"] == "candidate"]
    assert candidates.groupby("user_id").size().to_dict() == dict.fromkeys(interactions["user_id"].unique(), 12)
    pairs = {tuple(pair) for pair in candidates[["user_id", "item_id"]].to_numpy()}
    assert len(pairs) == len(candidates)
    known = interactions[interactions["split"] != "test"]
    taken = {tuple(pair) for part in (known, scores) for pair in part[["user_id", "item_id"]].to_numpy()}
    assert not pairs & taken

    valid = {tuple(pair) for pair in interactions.loc[interactions["split"] == "valid", ["user_id", "item_id"]].values}
    probes = {tuple(pair) for pair in frame.loc[frame["kind"] == "probe", ["user_id", "item_id"]].values}
    assert probes == valid
    assert (of_student["kind"] == "probe").sum() == N_USERS - 10  # every fourth of 40 has the LLM's

    data = load_interactions(interactions, items)
    table = ScoreTable.read(extended.path, user_index=data.user_index, item_index=data.item_index)
    assert len(table) == len(frame)
    assert table.origin["extension"] == json.loads(extended.path.with_suffix(".json").read_text())
    assert table.origin["extension"]["rows"] == {
        "llm candidate": 800,
        "llm probe": 10,
        "student candidate": 12 * N_USERS,
        "student probe": N_USERS - 10,
    }
    # It stands for the LLM: 0.8 for the user's genre.
    titles = items.set_index("item_id")["title"]
    genre = candidates["user_id"].str[1:].astype(int) % GENRES
    own = np.array(
        [titles[item].startswith(f"genre{g} ") for item, g in zip(candidates["item_id"], genre, strict=True)]
    )
    assert candidates["score"][own].mean() == pytest.approx(0.8, abs=0.03)
    assert candidates["score"][~own].mean() == pytest.approx(0.2, abs=0.03)


def test_test_interactions_change_nothing(world, extended):
    interactions, items, scores = world
    other = interactions.copy()
    is_test = other["split"] == "test"
    other.loc[is_test, "item_id"] = np.random.default_rng(5).permutation(items["item_id"])[:GENRES].tolist() * 15
    repeated = other.duplicated(["user_id", "item_id"])  # would be dropped from the earlier split's copy
    other = other[~(repeated & is_test)]
    again = extend_scores(scores, other, items, **SMALL)
    pd.testing.assert_frame_equal(again.frame, extended.frame, check_exact=True)
    assert again.content() == extended.content()


def test_users_probes_and_seed_are_chosen(world):
    interactions, items, scores = world
    some = extend_scores(scores, interactions, items, **SMALL | {"users": 7, "probes": False, "seed": 3}).frame
    of_student = some[some["source"] == "student"]
    assert of_student["user_id"].nunique() == 7
    assert set(of_student["kind"]) == {"candidate"}


def test_ids_of_a_text_file_become_those_of_the_interactions(world, tmp_path):
    interactions, items, scores = (
        frame.assign(**{name: frame[name].str[1:].astype(int) for name in ("user_id", "item_id") if name in frame})
        for frame in world
    )
    scores.assign(prompt_position=4, n_answers=1).to_csv(tmp_path / "scores.csv", index=False)
    interactions.to_csv(tmp_path / "clicks.csv", index=False)
    out = tmp_path / "extended.parquet"
    extend_scores(tmp_path / "scores.csv", tmp_path / "clicks.csv", items, out=out, **SMALL)
    frame = pd.read_parquet(out)
    assert pd.api.types.is_integer_dtype(frame["user_id"])
    assert frame["user_id"].head(len(scores)).tolist() == scores["user_id"].tolist()
    assert frame["prompt_position"].dropna().unique().tolist() == [4]
    assert frame.loc[frame["source"] == "student", "n_answers"].unique().tolist() == [0]
    # Rows of an earlier extension are replaced.
    with pytest.warns(CoverageWarning, match=f"{12 * N_USERS + N_USERS - 10} of its {len(frame)} rows"):
        again = extend_scores(out, tmp_path / "clicks.csv", items, **SMALL)
    assert (again.frame["source"] == "llm").sum() == len(scores)
    assert len(again.frame) == len(frame)


def test_texts_add_views_and_vectors_stand_alone(world):
    interactions, items, scores = world
    texts = pd.DataFrame({"kind": "item", "id": items["item_id"], "text": items["title"].str.split().str[0]})
    silent = items.drop(columns="title")
    by_text = extend_scores(scores, interactions, silent, texts=texts, **SMALL)
    assert by_text.agreement.correlation > 0.95
    genre = np.arange(len(items)) // PER_GENRE
    vectors = dict(zip(items["item_id"], np.eye(GENRES)[genre], strict=True))
    by_vector = extend_scores(scores, interactions, silent, texts=vectors, **SMALL)
    assert by_vector.agreement.correlation > 0.95
    assert [one.name for one in by_vector.ranked] == ["student", "popularity"]


def test_what_cannot_be_used_is_said(world, tmp_path):
    interactions, items, scores = world
    with pytest.raises(DataError, match="nothing says what the items are"):
        extend_scores(scores, interactions, items.drop(columns="title"), **SMALL)
    with pytest.raises(CoverageError, match="scores of 2 users, and folds=3"):
        extend_scores(scores[scores["user_id"].isin(["u00", "u01"])], interactions, items, **SMALL)
    with pytest.raises(CoverageError, match="none of its 810 rows"):
        extend_scores(scores.assign(user_id="nobody"), interactions, items, **SMALL)
    with pytest.raises(CoverageError, match="none of its 810 rows is the LLM's score"):
        extend_scores(scores.assign(source="student"), interactions, items, **SMALL)
    with pytest.raises(ScoreTableError, match="is a folder"):
        extend_scores(tmp_path, interactions, items, **SMALL)
    texts = pd.DataFrame({"kind": ["item"], "id": ["x"], "text": ["y"]})
    with pytest.raises(DataError, match="no text is of an item"):
        extend_scores(scores, interactions, items, texts=texts, **SMALL)


def test_the_command_prints_writes_and_refuses(world, tmp_path, capsys):
    interactions, items, scores = world
    for name, frame in (("clicks", interactions), ("items", items), ("scores", scores)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    planted(lambda is_own, rng: rng.uniform())[2].to_csv(tmp_path / "random.csv", index=False)
    out = tmp_path / "extended.parquet"
    common = ["extend", "--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    common += ["--out", str(out), "--items-per-user", "5", "--rank-items", "40"]
    assert main([*common, "--scores", str(tmp_path / "random.csv")]) == 2
    printed, said = capsys.readouterr()
    assert "correlation with the LLM" in printed
    assert "sllmr: error: the student ranks validation items clearly worse" in said
    assert "Traceback" not in said
    assert not out.exists()
    assert main([*common, "--scores", str(tmp_path / "scores.csv"), "--no-probes"]) == 0
    assert f"written: {out}, {out.with_suffix('.json')}" in capsys.readouterr().out
    assert len(pd.read_parquet(out)) == len(scores) + 5 * N_USERS
    assert main([*common, "--scores", str(tmp_path / "nowhere.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main([*common, "--scores", str(out)]) == 2
    assert "which would be lost" in capsys.readouterr().err


# ---------------------------------------------------------------------- the parts


def test_features_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    n_users, n_items, length = 7, 9, 4
    dense = rng.standard_normal((n_items + 1, 5))
    dense[0] = 0
    thin = sparse.csr_matrix(rng.random((n_items + 1, 6)) * (rng.random((n_items + 1, 6)) < 0.4))
    histories = np.zeros((n_users + 1, length), dtype=int)
    for user in range(2, n_users + 1):  # user 1 has no history
        taken = rng.permutation(np.arange(1, n_items + 1))[: rng.integers(1, length + 1)]
        histories[user, : len(taken)] = taken
    popularity, lengths = rng.integers(0, 9, n_items + 1), (histories > 0).sum(axis=1)
    features = PairFeatures({"thin": thin, "dense": dense}, histories, popularity, lengths, components=2)
    users, items = rng.integers(1, n_users + 1, 40), rng.integers(1, n_items + 1, 40)
    found = pd.DataFrame(features(users, items), columns=features.names)

    def cosine(a, b):
        size = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / size if size else 0.0

    def unit(row):
        return row / (np.linalg.norm(row) or 1.0)

    for row, (user, item) in enumerate(zip(users, items, strict=True)):
        past = [code for code in histories[user] if code]
        for name, matrix in (("thin", np.asarray(thin.todense())), ("dense", dense)):
            if not past:
                assert found.loc[row, [f"{name}: maximum", f"{name}: mean", f"{name}: last"]].isna().all()
                continue
            of_past = [cosine(matrix[code], matrix[item]) for code in past]
            mean = np.sum([unit(matrix[code]) for code in past], axis=0)
            assert found.loc[row, f"{name}: maximum"] == pytest.approx(max(of_past), abs=1e-6)
            assert found.loc[row, f"{name}: last"] == pytest.approx(of_past[-1], abs=1e-6)
            assert found.loc[row, f"{name}: mean"] == pytest.approx(cosine(mean, matrix[item]), abs=1e-6)
        assert found.loc[row, "log popularity"] == pytest.approx(np.log(1 + popularity[item]), abs=1e-6)
        assert found.loc[row, "history length"] == len(past)
    assert features.names[-2:] == ["user component 0", "user component 1"]
    assert found.filter(like="component").notna().all().all()
    alone = [features(users[[row]], items[[row]]) for row in range(40)]
    np.testing.assert_allclose(np.concatenate(alone), found, atol=1e-6)  # whatever stands beside a pair


def test_texts_lie_at_their_items_code():
    found = text_vectors(["red apple", " ", "green pear"])
    weights = found["tfidf"].toarray()
    assert weights.shape[0] == 4
    assert np.flatnonzero(weights.any(axis=1)).tolist() == [1, 3]
    assert np.flatnonzero(found["vectors"].any(axis=1)).tolist() == [1, 3]
    np.testing.assert_allclose(weights[1] @ weights[3], 0, atol=1e-7)


def test_a_student_predicts_nobody_that_it_has_learnt_from():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(1, 41), 30)
    features, scores = rng.standard_normal((1200, 3)), rng.random(1200)
    fitted = CrossFitted.fit(features, scores, users, 50, folds=4, seed=0)
    assert np.bincount(fitted.fold_of_user[1:41]).tolist() == [10] * 4
    assert (fitted.fold_of_user[41:] == -1).all()
    flipped = np.where(users == 7, 1 - scores, scores)
    other = CrossFitted.fit(features, flipped, users, 50, folds=4, seed=0)
    (before, _), (after, _) = (one.predict(features, users) for one in (fitted, other))
    own = fitted.fold_of_user[users] == fitted.fold_of_user[7]
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()
    stranger = np.full(1200, 45)
    by_model = np.stack([model.predict(features) for model in fitted.models]).clip(0, 1)
    score, spread = fitted.predict(features, stranger)
    np.testing.assert_allclose(score, by_model.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(spread, by_model.std(axis=0), atol=1e-12)


def test_agreement_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    users = np.repeat([2, 5, 9], [4, 1, 6])
    table = UserScores.from_arrays(users, np.arange(11), (rng.integers(0, 11, 11) / 10))
    guess = rng.integers(0, 4, 11) / 4
    found = Agreement.of(table, guess)
    told, right, count = table.scores.numpy().round(1), 0.0, 0
    for a in range(11):
        for b in range(11):
            if users[a] == users[b] and told[a] - told[b] > 0.15:  # tenths: more than one tenth apart
                count += 1
                right += 1.0 if guess[a] > guess[b] else 0.5 if guess[a] == guess[b] else 0.0
    assert (found.n_apart, found.same_order) == (count, pytest.approx(right / count))
    assert found.correlation == pytest.approx(pd.Series(told).corr(pd.Series(guess)))
    assert np.isnan(Agreement.of(table, np.zeros(11)).correlation)


def test_drawn_items_are_unseen_different_and_uniform():
    seen_users, seen_items = np.array([1, 1, 2, 2, 2, 2]), np.array([3, 5, 1, 2, 3, 4])
    unseen = UnseenItems(seen_users, seen_items, n_users=4000, n_items=6)
    users, items = draw_distinct(unseen, np.array([1, 2, 3]), 4, np.random.default_rng(0))
    assert items[users == 1].tolist() == [1, 2, 4, 6]
    assert items[users == 2].tolist() == [5, 6]  # all that there is
    assert len(set(items[users == 3])) == 4
    users, items = draw_distinct(unseen, np.arange(3, 4001), 2, np.random.default_rng(0))
    counts = np.bincount(items, minlength=7)[1:]
    expected = 3998 * 2 / 6
    assert np.abs(counts - expected).max() < 4 * np.sqrt(3998 * (1 / 3) * (2 / 3))


# ---------------------------------------------------------------------- given pairs


def test_features_of_an_interaction_are_those_of_data_without_it(world):
    interactions, items, _ = world
    data = load_interactions(interactions, items)
    rows = data.train.iloc[[0, 4, 9, 100]]
    users, items_ = rows["user"].to_numpy(), rows["item"].to_numpy()
    found = student_features(data)[0].as_if_not_taken(users, items_)
    for user, item, own in zip(users, items_, found, strict=True):
        raw = data.user_ids[user - 1], data.item_ids[item - 1]
        gone = (interactions["user_id"] == raw[0]) & (interactions["item_id"] == raw[1])
        without = load_interactions(interactions[~gone], items)
        np.testing.assert_allclose(own, student_features(without)[0](np.array([user]), np.array([item]))[0], atol=1e-5)


def test_given_pairs_are_written_alone_and_training_ones_are_judged_as_if_not_made(world, tmp_path):
    interactions, items, scores = world
    data = load_interactions(interactions, items)
    part = interactions.groupby("split").head(30)
    given = part[part["split"] != "test"][["user_id", "item_id"]]
    found = extend_scores(scores, interactions, items, pairs=given, out=tmp_path / "judged.parquet", **SMALL)
    table = pd.read_parquet(tmp_path / "judged.parquet")
    assert len(found.frame) == len(table) == len(given)
    assert set(table["source"]) == {"student"}
    probes = table[table["kind"] == "probe"]
    valid = set(zip(data.user_ids[data.valid["user"] - 1], data.item_ids[data.valid["item"] - 1], strict=True))
    assert set(zip(probes["user_id"], probes["item_id"], strict=True)) <= valid
    assert len(probes) == 30
    # Users stay in one genre, so their other items speak for each of theirs, by the rule of the LLM.
    assert table["score"].between(0.6, 0.9).all()
    with pytest.raises(DataError, match="a test interaction, whose score could leak it"):
        extend_scores(scores, interactions, items, pairs=part[["user_id", "item_id"]], **SMALL)
    with pytest.raises(DataError, match="again for the same user"):
        extend_scores(scores, interactions, items, pairs=pd.concat([given, given]), **SMALL)
    with pytest.raises(DataError, match="which is unknown"):
        extend_scores(scores, interactions, items, pairs=given.assign(item_id="nothing"), **SMALL)
