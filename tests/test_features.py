"""Attributes and histories as features: rows, backbones, training steps and rankings against loops over raw ids."""

import argparse
import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from deepctr_torch import models
from sklearn.metrics import roc_auc_score

from sllmr_plugin import ScoreTable, SelectiveConfig, wrap
from sllmr_plugin.cli import compare as compare_command
from sllmr_plugin.cli import main
from sllmr_plugin.cli import tune as tune_command
from sllmr_plugin.datasets.features import held_out_rows, item_table, template_rows, training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, DataError, RunFolderError
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.metrics import predict_rows
from sllmr_plugin.evaluation.ranking import full_ranking
from sllmr_plugin.evaluation.training import RunSettings, train, wrap_arguments
from sllmr_plugin.experiments.data import DataSource, load_source
from sllmr_plugin.zoo.deepctr import BACKBONES, build_model, input_rows

L = 3
ITEMS = [f"i{item:02d}" for item in range(16)]
BRANDS = dict(zip(ITEMS, ["Zeta", "Alpha one", "", "Zeta", *"bcd" * 4], strict=True))
TAGS = dict(zip(ITEMS, ["x y", "", "y  x z x", "z", *["w", "w x", "v"] * 4], strict=True))
NEVER_TRAINED = "i15"
BRAND_CODES = {"": 0, "Alpha one": 1, "Zeta": 2, "b": 3, "c": 4, "d": 5}
TAG_CODES = {"v": 1, "w": 2, "x": 3, "y": 4, "z": 5}


def clicks():
    """Users of one to six training items; nobody trains with the last item, which is somebody's test item."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(14):
        items = [ITEMS[k] for k in rng.permutation(15)[: 3 + user % 6]]
        splits = ["train"] * (len(items) - 2) + ["valid", "test"]
        items[-1] = NEVER_TRAINED if user % 5 == 0 else items[-1]
        rows += [(f"u{user:02d}", item, k, split) for k, (item, split) in enumerate(zip(items, splits, strict=True))]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position", "split"])


def catalogue():
    return pd.DataFrame({"item_id": ITEMS, "brand": BRANDS.values(), "tags": TAGS.values()})


ATTRIBUTES = ["brand", "tags:space"]


@functools.cache
def load(*attributes):
    return load_interactions(clicks(), catalogue(), attributes=attributes)


@pytest.fixture
def data():
    return load(*ATTRIBUTES)


def tags_of(item):
    codes = [TAG_CODES[tag] for tag in dict.fromkeys(TAGS[item].split())]
    return codes + [0] * (3 - len(codes))


def columns_of(item, history):
    """What a row of raw ids holds beside its ids; histories hold the last L of what is given."""
    history = history[-L:]
    padding = L - len(history)
    return {
        "item_brand": BRAND_CODES[BRANDS[item]],
        "item_tags": tags_of(item),
        "hist_item_id": [1 + ITEMS.index(past) for past in history] + [0] * padding,
        "hist_item_brand": [BRAND_CODES[BRANDS[past]] for past in history] + [0] * padding,
        "hist_item_tags": sum([tags_of(past) for past in history], []) + [0] * (3 * padding),
    }


def past_of(user, splits=("train",)):
    mine = clicks().query("user_id == @user")
    return list(mine.loc[mine["split"].isin(splits), "item_id"])


# ---------------------------------------------------------------------- columns of the items file


def test_values_are_sorted_and_coded_from_1(data):
    brand, tags = data.attributes["item_brand"], data.attributes["item_tags"]
    assert (brand.column, brand.history, brand.has_several, brand.width) == ("brand", "hist_item_brand", False, 1)
    assert (tags.has_several, tags.width, tags.vocabulary_size) == (True, 3, 6)
    assert dict(zip(brand.values, range(1, 6), strict=True)) == {key: n for key, n in BRAND_CODES.items() if key}
    assert brand.codes.tolist() == [0, *(BRAND_CODES[BRANDS[item]] for item in ITEMS)]
    assert tags.codes.tolist() == [[0, 0, 0], *map(tags_of, ITEMS)]


@pytest.mark.parametrize(
    ("separator", "cells"), [("comma", ["a, b", "b"]), ("pipe", ["a|b", "|b"]), (";", ["a ; b;", "b"]), (" > ", None)]
)
def test_separators(separator, cells):
    items = pd.DataFrame({"item_id": [1, 2], "genres": cells or ["a > b", "b"]})
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2]})
    codes = load_interactions(frame, items, attributes=[f"genres:{separator}"]).attributes["item_genres"].codes
    assert codes.tolist() == [[0, 0], [1, 2], [2, 0]]


def test_numbers_are_values_and_missing_ones_are_none():
    items = pd.DataFrame({"item_id": [1, 2, 3], "year": [2006, np.nan, 1999]})
    data = load_interactions(pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}), items, attributes=["year"])
    assert data.attributes["item_year"].values.tolist() == ["1999", "2006"]
    assert data.attributes["item_year"].codes.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        (["colour"], "no column 'colour'"),
        (["brand", "brand:space"], "attribute 'brand' is named twice"),
        (["brand:"], "'brand:' is neither COLUMN nor COLUMN:SEPARATOR"),
        ([":space"], "':space' is neither"),
        (["a.b"], "column 'a.b' cannot be an attribute.*has a dot"),
        (["id"], "column 'id' cannot be an attribute: the name item_id is taken"),
        (["empty"], "column empty is empty, so it says nothing"),
        (["lists"], "row 0 .*: lists is .*not a text; write texts"),
    ],
)
def test_attributes_that_cannot_be_read(attributes, told):
    items = catalogue().assign(empty=" ", lists=[["a"]] * len(ITEMS), **{"a.b": "c"})
    with pytest.raises(DataError, match=told):
        load_interactions(clicks(), items, attributes=attributes)
    with pytest.raises(DataError, match="give an items file"):
        load_interactions(clicks(), attributes=attributes)


# ---------------------------------------------------------------------- rows


def test_training_rows_against_a_loop_over_interactions(data):
    x, y = training_rows(data, negatives=2, history_length=L, seed=3)
    place = 0
    for user in sorted(clicks()["user_id"].unique()):
        past = past_of(user)
        for number, item in enumerate(past):
            for label in (1, 0, 0):
                row = {name: values[place].tolist() for name, values in x.items()}
                found = ITEMS[row["item_id"] - 1]
                assert (y[place], data.user_ids[row["user_id"] - 1]) == (label, user)
                assert found == item if label else found not in past
                expected = columns_of(found, past[:number])  # earlier training interactions, not the row's own
                assert {name: row[name] for name in expected} == expected
                place += 1
    assert place == len(y)
    assert all(values.dtype == np.int32 for values in x.values())


@pytest.mark.parametrize(("split", "seen"), [("valid", ["train"]), ("test", ["train", "valid"])])
def test_rows_to_rank_against_a_loop(data, split, seen):
    users = np.arange(1, data.n_users + 1)
    templates = template_rows(data, users, split=split, history_length=L)
    held_out, labels = held_out_rows(data, split, negatives=4, history_length=L)
    for place, user in enumerate(users):
        expected = columns_of(ITEMS[0], past_of(data.user_ids[user - 1], seen))
        for name in ("hist_item_id", "hist_item_brand", "hist_item_tags"):
            assert templates[name][place].tolist() == expected[name]
        assert templates["item_brand"][place] == 0
        assert not templates["item_tags"][place].any()
    for place in range(len(labels)):
        row = {name: values[place].tolist() for name, values in held_out.items()}
        expected = columns_of(ITEMS[row["item_id"] - 1], past_of(data.user_ids[row["user_id"] - 1], seen))
        assert {name: row[name] for name in expected} == expected


def test_the_item_table_is_the_catalogues(data):
    table = item_table(data)
    assert table["item_id"].tolist() == ITEMS
    assert table["item_brand"].tolist() == [BRAND_CODES[BRANDS[item]] for item in ITEMS]
    assert [list(cell) for cell in table["item_tags"]] == [tags_of(item) for item in ITEMS]
    assert list(item_table(load())) == ["item_id"]


# ---------------------------------------------------------------------- backbones


def spread(model):
    """Give a model weights whose scores differ; initial ones are too small to tell rows apart."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def data_for(name):
    return load("brand") if name == "dien" else load(*ATTRIBUTES)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("histories", [False, True])
def test_every_column_counts_in_every_backbone(name, histories):
    data = data_for(name)
    model = build_model(name, data, embedding_dim=8, history_length=L, histories=histories)
    rows, labels = training_rows(data, history_length=L)
    x = input_rows(model, rows)
    wanted = {"user_id", "item_id", *data.attributes}
    wanted |= {"hist_item_id"} if histories or name in ("din", "dien") else set()
    wanted |= {attribute.history for attribute in data.attributes.values()} if histories else set()
    assert set(x) - {"seq_length"} == wanted
    assert ("seq_length" in x) == (name in ("din", "dien"))
    model.compile("adam", "binary_crossentropy")
    model.fit(x, labels, batch_size=16, epochs=1, verbose=0)
    scores = spread(model).predict(x)
    for column, values in x.items():
        other = np.where(values > 1, values - 1, 2 * values)  # another code, padding where there was padding
        assert not np.array_equal(model.predict({**x, column: np.minimum(other, values.max())}), scores), column


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "onn"])  # its tables are those of pairs
def test_histories_look_up_in_the_tables_of_their_features(name):
    data = data_for(name)
    model = build_model(name, data, embedding_dim=8, history_length=L, histories=True)
    for tables in (model.embedding_dict, model.linear_model.embedding_dict):
        assert {table.num_embeddings for table in tables.values()} <= {15, 17, 6}
        assert len(set(map(id, tables.values()))) in (0, 2 + len(data.attributes))  # none where there is no linear part
    assert len(model.embedding_dict)
    weights = {id(weight) for weight in model.parameters()}
    penalised = [weight for group, *_ in model.regularization_weight for weight in group]
    embeddings = [weight for weight in penalised if isinstance(weight, torch.Tensor) and weight.shape[0] in (15, 17)]
    assert {id(weight) for weight in embeddings} <= weights
    assert len(embeddings) == len({id(weight) for weight in embeddings})


def test_a_pooled_history_is_the_mean_of_what_is_known():
    data = load(*ATTRIBUTES)
    model = spread(build_model("mlr", data, history_length=L, histories=True))
    rows = template_rows(data, np.array([6]), split="test", history_length=L)
    assert 0 in rows["hist_item_tags"]

    def score(**changed):
        return model.predict(input_rows(model, {**rows, **{name: np.array([v]) for name, v in changed.items()}})).item()

    # i02 has no brand: it does not count, wherever it stands
    assert score(hist_item_brand=[2, 0, 3]) == pytest.approx(score(hist_item_brand=[3, 2, 0]))
    assert score(hist_item_brand=[2, 0, 0]) == pytest.approx(score(hist_item_brand=[2, 2, 2]))
    assert score(hist_item_tags=[1, 0, 0, 4, 0, 0, 0, 0, 0]) == pytest.approx(score(hist_item_tags=[1, 4] * 4 + [0]))


def test_din_attends_to_items_and_single_values_in_one_order(data):
    model = build_model("din", load("tags:space", "brand"), embedding_dim=8, history_length=L, histories=True)
    assert model.history_feature_list == ["item_id", "item_brand"]
    assert [column.name for column in model.history_feature_columns] == ["hist_item_id", "hist_item_brand"]
    assert [column.name for column in model.sparse_varlen_feature_columns] == ["item_tags", "hist_item_tags"]
    assert build_model("din", data, embedding_dim=8).history_feature_list == ["item_id"]


def test_dien_refuses_what_it_would_leave_out(data):
    with pytest.raises(BackboneError, match="DIEN leaves out columns of several values such as 'tags'; leave"):
        build_model("dien", data)


def test_rows_of_another_width_are_refused(data):
    model = build_model("deepfm", data, history_length=L, histories=True)
    rows, _ = training_rows(data, history_length=L + 1)
    with pytest.raises(BackboneError, match="reads 3 columns of 'hist_item_id', but the rows have 4; build model and"):
        input_rows(model, rows)
    with pytest.raises(BackboneError, match="the model reads 'item_brand', 'item_tags'.*load_interactions reads"):
        input_rows(model, training_rows(load(), history_length=L)[0])


# ---------------------------------------------------------------------- rankings


@pytest.mark.parametrize("name", ["deepfm", "xdeepfm", "din", "dien"])
def test_a_ranking_is_that_of_predictions_with_each_candidates_attributes(name):
    data = data_for(name)
    model = spread(build_model(name, data, embedding_dim=8, history_length=L, histories=True))
    frame = clicks()

    def predicted(user, item, seen):
        past = past_of(user, seen)
        ids = {"user_id": data.user_index[user], "item_id": data.item_index[item], "seq_length": min(L, len(past))}
        row = {**ids, **columns_of(item, past)}
        return model.predict({key: np.array([row[key]]) for key in model.feature_index}).item()

    whole, sampled = (full_ranking(model, data, "valid", n_items=n, verbose=False) for n in (None, 15))
    aucs = []
    for row in whole.itertuples():
        user, item = data.user_ids[row.user - 1], data.item_ids[row.item - 1]
        unseen = sorted(set(ITEMS) - set(frame.query("user_id == @user and split != 'test'")["item_id"]))
        scores = [predicted(user, other, ["train"]) for other in [item, *unseen]]
        aucs.append(roc_auc_score([1] + [0] * len(unseen), scores))
    assert len(aucs) == 14
    assert whole["auc"].tolist() == pytest.approx(aucs, abs=1e-9)
    assert sampled["auc"].mean() == pytest.approx(np.mean(aucs), abs=4 * np.sqrt((sampled["auc_se"] ** 2).sum()) / 14)
    tested = frame[frame["split"] == "test"]
    codes = {"user": data.user_index[tested["user_id"]].to_numpy(), "item": data.item_index[tested["item_id"]]}
    expected = [predicted(*pair, ["train", "valid"]) for pair in zip(tested["user_id"], tested["item_id"], strict=True)]
    assert predict_rows(model, data, pd.DataFrame(codes)) == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------------- training steps


def scores_of(data):
    """Every user has scores of the last item, which nobody trains with, and of some others."""
    rows = [(u, i, (u + 3 * i) % 7 / 7) for u in range(1, data.n_users + 1) for i in range(1 + u % 3, 17, 3)]
    rows += [(u, 16, 0.95) for u in range(1, data.n_users + 1) if (u, 16) not in {row[:2] for row in rows}]
    return ScoreTable.read(pd.DataFrame(rows, columns=["user_id", "item_id", "score"]))


def settings(**changes):
    return RunSettings.quick(epochs=2, embedding_dim=8, batch_size=16, history_length=L, histories=True, **changes)


@pytest.mark.parametrize("name", ["DeepFM", "xDeepFM", "DIN", "DIEN"])
def test_extra_rows_of_a_step_carry_the_candidates_attributes_and_the_users_history(name, monkeypatch):
    data = data_for(name.lower())
    seen, original = [], getattr(models, name).forward

    @functools.wraps(original)
    def spy(self, X):
        if torch.is_grad_enabled():
            seen.append(X.clone())
        return original(self, X)

    monkeypatch.setattr(getattr(models, name), "forward", spy)
    options = {"backbone": name.lower(), "seed": 0, "settings": settings(model_arguments={"init_std": 0.05})}
    x, y = training_rows(data, history_length=L)
    others = x["item_id"] != 16  # not as a negative either: no training row has the last item
    rows = {key: values[others] for key, values in x.items()}, y[others]
    config = SelectiveConfig(gate="none", weight=0.5, users_per_step=4)
    trained = train(data, rows, scores_of(data), config=config, verbose=False, **options)
    layout = trained.model.feature_index
    n_batches = math.ceil(len(rows[1]) / 16)
    # With the batch's rows, or after them in a pass of their own
    assert len(seen) in (2 * n_batches, 4 * n_batches)
    x = input_rows(trained.model, rows[0])
    given = {tuple(row) for row in np.concatenate([x[key].reshape(len(rows[1]), -1) for key in layout], 1).tolist()}
    extra = [row for row in torch.cat(seen).int().tolist() if tuple(row) not in given]
    assert len(extra) > 100
    assert {row[layout["item_id"][0]] for row in extra} > {16}
    for row in extra:
        found = {key: row[first] if end - first == 1 else row[first:end] for key, (first, end) in layout.items()}
        user, item = data.user_ids[found["user_id"] - 1], ITEMS[found["item_id"] - 1]
        # the user's latest positive row: all training items before the last one
        expected = columns_of(item, past_of(user)[:-1])
        assert {key: found[key] for key in expected if key in found} == {
            k: v for k, v in expected.items() if k in found
        }


@pytest.mark.parametrize("name", ["deepfm", "autoint", "din", "dien"])
def test_without_weight_a_model_with_features_trains_as_the_plain_one(name):
    data = data_for(name)
    rows, labels = training_rows(data, history_length=L)
    states = []
    for wrapped in (False, True):
        model = build_model(name, data, embedding_dim=8, dropout=0.2, history_length=L, histories=True)
        if wrapped:
            model = wrap(model, scores_of(data), config=SelectiveConfig(weight=0.0), **wrap_arguments(data))
        model.compile("adam", "binary_crossentropy")
        torch.manual_seed(3)
        model.fit(input_rows(model, rows), labels, batch_size=16, epochs=2, verbose=0)
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    plain, regularized = states
    assert list(plain) == list(regularized)
    assert all(torch.equal(plain[key], regularized[key]) for key in plain)


def test_features_are_only_what_the_data_have():
    assert wrap_arguments(load()) == {"user": "user_id", "item": "item_id"}
    data = load("brand")
    trained = train(
        data,
        training_rows(data, history_length=L),
        scores_of(data),
        backbone="deepfm",
        config=SelectiveConfig(weight=0.1),
        seed=0,
        settings=settings(),
        verbose=False,
    )
    features = trained.model.sllmr.features
    assert features.item_features == ("item_id", "item_brand")
    assert features.vocabularies == {"item_brand": 6}
    codes, values = trained.model.sllmr.item_values
    assert codes.tolist() == list(range(1, 17))
    assert values[:, 1].tolist() == [BRAND_CODES[BRANDS[item]] for item in ITEMS]


# ---------------------------------------------------------------------- comparisons


def test_a_comparison_reads_attributes_and_does_not_mix_them(tmp_path):
    data = load(*ATTRIBUTES)
    scores = scores_of(data)
    options = {"out": tmp_path, "modes": ["none", "global"], "seeds": 1, "settings": settings(), "verbose": False}
    compare(data, scores, **options)
    with pytest.raises(RunFolderError, match=r"attributes(\.\w+)? was"):
        compare(load("brand"), scores, **options)
    with pytest.raises(BackboneError, match="DIEN leaves out"):
        compare(data, scores, **{**options, "backbone": ["din", "dien"]})
    other = catalogue().assign(brand=[*catalogue()["brand"][1:], "new"])
    with pytest.raises(RunFolderError, match=r"attributes(\.\w+)? was"):
        compare(load_interactions(clicks(), other, attributes=ATTRIBUTES), scores, **options)


def test_probes_are_judged_with_their_own_attributes(tmp_path, monkeypatch):
    data = load(*ATTRIBUTES)
    frame = pd.concat(
        [
            pd.DataFrame([(u, i, i / 17, "candidate") for u in range(1, 15) for i in (1, 5, 9, 16)]),
            pd.DataFrame([(row.user, row.item, 0.9, "probe") for row in data.valid.itertuples()]),
        ]
    ).set_axis(["user_id", "item_id", "score", "kind"], axis=1)
    told, original = [], compare_module.reliability
    monkeypatch.setattr(
        compare_module, "reliability", lambda model, *a, **more: told.append(more) or original(model, *a, **more)
    )
    table = ScoreTable.read(frame.drop_duplicates(["user_id", "item_id"], keep="last"))
    compare(data, table, out=tmp_path, modes=["none"], seeds=1, settings=settings(), verbose=False)
    assert told[0]["item_features"] == ["item_id", "item_brand", "item_tags"]
    assert json.loads((tmp_path / "reliability.json").read_text())["regions"]


def test_flags_reach_data_and_models(tmp_path, monkeypatch):
    clicks().to_csv(tmp_path / "clicks.csv", index=False)
    catalogue().to_csv(tmp_path / "items.csv", index=False)
    pd.DataFrame({"user_id": ["u00"] * 2, "item_id": ITEMS[:2], "score": [0.2, 0.8]}).to_csv(
        tmp_path / "scores.csv", index=False
    )
    files = [f"--{name}={tmp_path / name}.csv" for name in ("items", "scores")]
    files += [f"--interactions={tmp_path / 'clicks.csv'}", f"--out={tmp_path / 'run'}"]
    seen = []
    monkeypatch.setattr(compare_command, "compare", lambda data, scores, **options: seen.append((data, options)))
    main(["compare", *files, "--attributes", "brand,tags:space", "--histories"])
    (data, options), features = seen[0], {"item_brand", "item_tags"}
    assert set(data.attributes) == features
    assert options["settings"].histories
    assert options["settings"].history_length == 20
    parser = argparse.ArgumentParser()
    tune_command.add(parser)
    arguments = parser.parse_args([*files, "--attributes", "brand,tags:space", "--histories"])
    chosen = argparse.Namespace(
        config_file="chosen.yaml",
        backbone="din",
        config=SelectiveConfig(),
        chosen=argparse.Namespace(parts=(), mode="gated", scale=None),
    )
    command = tune_command._compare_command(arguments, chosen)
    assert "--attributes brand,tags:space" in command
    assert "--histories" in command
    source = DataSource(name="mine", root=str(tmp_path.parent), folder=tmp_path.name, attributes=["tags:space"])
    clicks().drop(columns="split").to_csv(tmp_path / "interactions.csv", index=False)
    assert set(load_source(source, ())[0].attributes) == {"item_tags"}
