"""The scorer of content and popularity: against loops, what its weight is chosen on, what it says."""

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.cli import main
from sllmr_plugin.datasets.content import POPULARITY_WEIGHTS, Content
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import ConfigError, DataError
from sllmr_plugin.scoring import ContentScorer, ScoringRequest, draw_candidates, read_metadata, score_candidates
from sllmr_plugin.scoring.content import _aucs, item_texts

from .test_untrained import TITLES, naive_z

ITEMS = pd.DataFrame({"item_id": [f"i{n}" for n in range(6)], "title": TITLES})


def clicks(n_users=30):
    """Every user keeps to the cars or to the farm; even and odd users of a side leave out different items."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        items = generator.permutation([0, 1, 2] if user % 3 else [3, 4, 5])
        rows += [
            (f"u{user:02}", f"i{item}", split) for item, split in zip(items, ("train", "valid", "test"), strict=True)
        ]
    rows.append(("u99", "i1", "test"))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "split"])


@pytest.fixture
def data():
    return load_interactions(clicks(), ITEMS)


def ask(user, items=range(6)):
    return ScoringRequest(user, (), tuple(f"i{n}" for n in items), tuple(TITLES[n] for n in items))


def shares(ranking):
    """Of each item the share of the catalogue below it, equals half."""
    return [np.mean([(other < own) + (abs(other - own) < 1e-9) / 2 for other in ranking]) for own in ranking]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.5])
def test_a_score_is_the_share_of_the_catalogue_that_is_ranked_below(data, weight):
    titles = [*TITLES[:5], "barn"]
    scorer = ContentScorer(data, titles, popularity_weight=weight)
    popularity = [sum(data.train["item"] == item) for item in range(1, data.n_items + 1)]
    for user in data.user_ids[:-1]:
        z = naive_z(data, titles, int(data.user_index[user]))
        expected = shares(np.round(z + weight * np.log1p(popularity), 6))
        answer = scorer.score(ask(user))
        assert list(answer.scores.values()) == pytest.approx(expected), user
        assert answer.missing == ()
        few = scorer.score(ask(user, [4, 1])).scores  # whatever else is asked about
        assert few == {item: answer.scores[item] for item in ("i4", "i1")}


def test_users_without_content_are_missing_or_scored_by_popularity(data):
    assert ContentScorer(data, TITLES).score(ask("u99")).missing == ask("u99").item_ids
    scores = ContentScorer(data, TITLES, popularity_weight=0.5).score(ask("u99")).scores
    assert list(scores.values()) == pytest.approx(shares(data.popularity[1:]))


def valid_auc(data, weight, half):
    """AUC of validation interactions of users of even or odd codes, item by item."""
    found = []
    for user, item in data.valid[data.valid["user"] % 2 == half].to_numpy():
        z = naive_z(data, TITLES, user) + weight * np.log1p(data.popularity[1:])
        own = {*data.train[data.train["user"] == user]["item"], item}
        rivals = [other for other in range(1, data.n_items + 1) if other not in own]
        found.append(np.mean([np.sign(round(z[item - 1] - z[other - 1], 6)) / 2 + 0.5 for other in rivals]))
    return np.mean(found)


def test_the_weight_of_a_half_is_the_best_on_validation_of_the_other(data):
    best = {}
    for half in (0, 1):
        aucs = [valid_auc(data, weight, half) for weight in POPULARITY_WEIGHTS]
        best[half] = POPULARITY_WEIGHTS[int(np.argmax(aucs))]
    assert ContentScorer(data, TITLES, popularity_weight=None).weights == (best[1], best[0])


def test_what_a_weight_is_chosen_by_is_the_auc_against_items_not_taken(data, monkeypatch):
    monkeypatch.setattr("sllmr_plugin.datasets.content._BLOCK", 4)
    rows = data.valid[data.valid["user"] % 2 == 1][["user", "item"]].to_numpy()
    aucs = _aucs(Content.of(data, TITLES), np.log1p(data.popularity[1:]), data, rows[::-1])
    assert aucs == pytest.approx([valid_auc(data, weight, 1) for weight in POPULARITY_WEIGHTS], abs=1e-6)


def test_a_users_scores_do_not_depend_on_validation_items_of_users_of_their_half_nor_on_any_test_item():
    rows = clicks()
    numbers = rows["user_id"].str[1:].astype(int)
    before = ContentScorer(load_interactions(rows, ITEMS), TITLES, popularity_weight=None)
    changed = rows.copy()  # "u00" has the code 1: of even numbers are the users of odd codes
    most = rows[rows["split"] == "train"]["item_id"].value_counts().index[0]
    changed.loc[(rows["split"] == "valid") & (numbers % 2 == 0), "item_id"] = most
    changed = changed[changed["split"] != "test"].drop_duplicates(["user_id", "item_id"])
    after = ContentScorer(load_interactions(changed, ITEMS), TITLES, popularity_weight=None)
    assert after.weights[1] == before.weights[1]
    assert after.weights[0] != before.weights[0]
    for user in ("u00", "u02", "u04"):
        assert after.score(ask(user)).scores == before.score(ask(user)).scores


def test_many_validation_interactions_are_drawn_from(data, monkeypatch):
    monkeypatch.setattr("sllmr_plugin.scoring.content._MOST", 3)
    seen = []
    monkeypatch.setattr("sllmr_plugin.scoring.content._aucs", lambda *given: seen.append(given[-1]) or np.zeros(9))
    assert ContentScorer(data, TITLES, popularity_weight=None, seed=1).weights == (0.0, 0.0)
    assert [len(rows) for rows in seen] == [3, 3]
    assert [set(rows[:, 0] % 2) for rows in seen] == [{1}, {0}]


def test_the_weight_needs_validation_users_on_both_sides():
    rows = clicks()
    one_sided = rows[(rows["split"] != "valid") | (rows["user_id"] == "u00")]
    data = load_interactions(one_sided, ITEMS)
    with pytest.raises(ConfigError, match="--popularity-weight 0.5"):
        ContentScorer(data, TITLES, popularity_weight=None)
    assert ContentScorer(data, TITLES, popularity_weight=0.5).weights == (0.5, 0.5)


def test_ids_of_other_files_are_refused(data):
    scorer = ContentScorer(data, TITLES)
    with pytest.raises(DataError, match="no user 'bob'"):
        scorer.score(ask("bob"))
    with pytest.raises(DataError, match="no item 'i7'"):
        scorer.score(ScoringRequest("u00", (), ("i7",), ("?",)))


def test_texts_are_titles_and_behind_them_descriptions(data):
    table = pd.DataFrame({"kind": [*"iuiii"], "id": ["i5", "i1", "i0", "i9", "i5"], "text": [*"abcde"]})
    table["kind"] = table["kind"].map({"i": "item", "u": "user"})
    assert item_texts(data) == TITLES
    assert item_texts(data, table) == [TITLES[0] + " c", *TITLES[1:5], "a"]
    with pytest.raises(DataError, match=r"none of its 1 items is in the interactions \(the first is 'i9'\)"):
        item_texts(data, table.iloc[3:4])
    with pytest.raises(DataError, match="has no texts of items"):
        item_texts(data, pd.DataFrame({"item_id": ["i1"], "colour": ["red"]}))


def test_the_command_writes_a_table_of_the_same_scores_and_says_how(tmp_path, data, capsys):
    clicks().to_csv(tmp_path / "clicks.csv", index=False)
    ITEMS.assign(title=[*TITLES[:5], "barn"]).to_csv(tmp_path / "items.csv", index=False)
    described = pd.DataFrame({"kind": "item", "id": ITEMS["item_id"], "text": ["fast", "fast", "fast", "", "", "hay"]})
    described.to_parquet(tmp_path / "texts.parquet")
    files = ["--interactions", str(tmp_path / "clicks.csv"), "--items", str(tmp_path / "items.csv")]
    draw_candidates(
        tmp_path / "clicks.csv", tmp_path / "items.csv", per_user=2, probe_share=1, pool=6, out=tmp_path / "c.parquet"
    )
    out = tmp_path / "s.parquet"
    command = ["score", "--candidates", str(tmp_path / "c.parquet"), *files, "--out", str(out)]
    texts = ["--texts", str(tmp_path / "texts.parquet")]
    assert main([*command, "--scorer", "content+popularity", *texts]) == 0
    shown = capsys.readouterr()
    assert "weight of popularity: " in shown.out + shown.err
    named = load_interactions(tmp_path / "clicks.csv", tmp_path / "items.csv")
    scorer = ContentScorer(named, item_texts(named, tmp_path / "texts.parquet"), popularity_weight=None)
    table = pd.read_parquet(out)
    assert set(table["kind"]) == {"candidate", "probe"}
    for row in table.itertuples():
        request = ScoringRequest(row.user_id, (), (row.item_id,), ("",))
        assert row.score == scorer.score(request).scores[row.item_id]
    settings = read_metadata(out)["settings"]
    assert settings["popularity_weights"] == list(scorer.weights)
    assert settings["texts"].endswith("texts.parquet")
    assert main([*command, "--scorer", "content"]) == 0
    alone = pd.read_parquet(out)
    plain = ContentScorer(named, item_texts(named))
    first = alone.iloc[0]
    assert (
        first["score"] == plain.score(ScoringRequest(first.user_id, (), (first.item_id,), ("",))).scores[first.item_id]
    )
    assert read_metadata(out)["settings"]["popularity_weights"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "lexical", "texts": "t.parquet"}, "--texts are read by --scorer content"),
        ({"scorer": "content", "popularity_weight": 0.5}, "--popularity-weight is of --scorer content.popularity"),
        ({"scorer": "content", "ledger": "l.sqlite"}, "leave out --ledger"),
        ({"scorer": "content+popularity", "popularity_weight": -1}, "popularity_weight"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        score_candidates(clicks(), clicks(), ITEMS, out=tmp_path / "s.parquet", **settings)
