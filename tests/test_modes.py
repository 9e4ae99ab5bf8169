"""Names of modes, the sources that they need, and flags of a training that name it again."""

import argparse

import numpy as np
import pandas as pd
import pytest

from sllmr_plugin.cli.training import add_training, run_settings, training_flags
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.datasets.negatives import UnseenItems
from sllmr_plugin.errors import ConfigError, VectorsError
from sllmr_plugin.evaluation.modes import Mode, Start, check_sources
from sllmr_plugin.evaluation.training import RunSettings
from sllmr_plugin.knowledge.id_vectors import Vectors
from sllmr_plugin.zoo.deepctr import build_model


@pytest.mark.parametrize(
    ("name", "parts", "regularizer"),
    [
        ("none", (), "none"),
        ("gated", (), "gated"),
        ("init", ("init",), "none"),
        ("init+gated", ("init",), "gated"),
        ("init+kar+kd", ("init", "kar"), "kd"),
        ("llm_cf+init", ("llm_cf", "init"), "none"),
        ("init+reclm", ("init", "reclm"), "none"),
        ("init+align+curec+gated", ("init", "align", "curec"), "gated"),
        ("embed+joint", ("embed",), "joint"),
    ],
)
def test_a_mode_is_parts_and_a_regularizer(name, parts, regularizer):
    mode = Mode.of(name)
    assert (mode.parts, mode.regularizer, mode.uses_scores) == (parts, regularizer, regularizer != "none")
    assert mode.adds_input == bool({"embed", "kar", "llm_cf", "curec", "reclm"} & set(parts))
    assert mode.needs("texts") == bool({"kar", "llm_cf", "curec", "reclm"} & set(parts))
    assert mode.needs("vectors") == bool({"init", "embed"} & set(parts))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gate", "not one of"),
        ("gated+init", "come first"),
        ("global+gated", "come first"),
        ("init+init", "adds nothing"),
        ("init+none", "adds nothing"),
        ("kar+llm_cf+gated", "take one of them"),
        ("curec+embed", "take one of them"),
        ("", "not one of"),
    ],
)
def test_other_combinations_are_refused(name, told):
    with pytest.raises(ConfigError, match=told):
        Mode.of(name)


def test_a_mode_without_its_source_is_refused():
    check_sources([Mode.of("init"), Mode.of("kar")], texts=1, start=1)
    with pytest.raises(ConfigError, match=r"mode kar, init\+llm_cf reads LLM-written texts"):
        check_sources([Mode.of(name) for name in ("kar", "none", "init+llm_cf")], texts=None, start=1)
    with pytest.raises(ConfigError, match=r"mode init\+llm_cf reads vectors"):
        check_sources([Mode.of(name) for name in ("kar", "none", "init+llm_cf")], texts=1, start=None)
    with pytest.raises(ConfigError, match="titles to start from"):
        Start.read("titles")


def test_texts_stand_alone_where_the_items_have_no_titles(tmp_path):
    texts = pd.DataFrame({"kind": "item", "id": ["a", "b", "c"], "text": ["red hat", "blue hat", "green shoe"]})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    pd.DataFrame({"item_id": ["a", "b"], "brand": ["x", "y"]}).to_csv(tmp_path / "items.csv", index=False)
    alone = Start.read(tmp_path / "texts.csv").vectors.items
    beside = Start.read(tmp_path / "texts.csv", tmp_path / "items.csv").vectors.items
    assert beside.ids.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(beside.matrix, alone.matrix)
    with pytest.raises(VectorsError, match="no column 'title'"):
        Vectors.read(texts, titles=tmp_path / "items.csv")


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(),
        RunSettings(redraw=not RunSettings().redraw, negatives_by="popularity", l2=0.0),
        RunSettings(valid_users=None, valid_items=7, patience=None, epochs=2, history_length=3, dropout=0.5),
        RunSettings(batches="users", adaptors="published"),
        RunSettings.quick(),
    ],
)
def test_the_flags_of_a_training_make_it_again(settings):
    parser = argparse.ArgumentParser()
    add_training(parser)
    assert run_settings(parser.parse_args(training_flags(settings))) == settings


def test_quick_is_for_what_no_flag_says():
    parser = argparse.ArgumentParser()
    add_training(parser)
    assert run_settings(parser.parse_args(["--quick"])) == RunSettings.quick()
    most = RunSettings().epochs
    assert run_settings(parser.parse_args(["--quick", "--epochs", str(most)])) == RunSettings.quick(epochs=most)


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--epochs", "x"], ["--l2", "-1"], ["--negatives-by", "luck"]])
def test_a_flag_out_of_range_is_an_error_of_the_command_line(wrong, capsys):
    parser = argparse.ArgumentParser()
    add_training(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_negatives_by_popularity_follow_the_training_counts():
    popular = np.repeat(np.arange(1, 5), [40, 20, 10, 1])  # item -> how many users have it
    frame = pd.DataFrame({"user_id": np.arange(71), "item_id": popular, "split": "train"})
    more = pd.DataFrame({"user_id": [71], "item_id": [5], "split": ["train"]})
    data = load_interactions(pd.concat([frame, more], ignore_index=True))
    x, y = training_rows(data, negatives=400, negatives_by="popularity", seed=3)
    last = (x["user_id"] == data.user_index[71]) & (y == 0)  # has item 5 alone, so draws among the others
    drawn = np.bincount(data.item_ids.to_numpy()[x["item_id"][last] - 1], minlength=6)
    assert drawn[5] == 0
    np.testing.assert_allclose(drawn[1:5] / 400, np.array([40, 20, 10, 1]) / 71, atol=0.07)
    uniform = training_rows(data, negatives=400, seed=3)[0]["item_id"][last]
    np.testing.assert_allclose(np.bincount(uniform)[1:5] / 400, 0.25, atol=0.07)


def test_a_weighted_draw_never_gives_a_seen_item_and_ends():
    seen = UnseenItems(np.array([1, 1, 2]), np.array([1, 2, 3]), n_users=2, n_items=4)
    weights = np.array([1e9, 1.0, 1.0, 0.0])  # user 1 meets what it has seen nearly always
    drawn = seen.draw(np.array([1, 2]), 50, np.random.default_rng(0), weights)
    assert set(drawn[0]) <= {3, 4}
    assert set(drawn[1]) == {1}


def test_l2_is_that_of_embeddings_and_linear_part():
    data = load_interactions(pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "split": "train"}))
    penalty = {}
    for l2, arguments in ((0.0, {}), (0.5, {}), (0.5, {"l2_reg_linear": 0.0})):
        model = build_model("deepfm", data, embedding_dim=2, l2=l2, seed=1, arguments=arguments)
        penalty[l2, bool(arguments)] = float(model.get_regularization_loss().detach())
    tables = [p for name, p in build_model("deepfm", data, embedding_dim=2, seed=1).named_parameters()]
    names = [name for name, _ in model.named_parameters()]
    squares = {name: float((p.detach() ** 2).sum()) for name, p in zip(names, tables, strict=True)}
    deep = sum(value for name, value in squares.items() if name.startswith("embedding_dict"))
    linear = sum(value for name, value in squares.items() if name.startswith("linear_model"))
    assert penalty[0.0, False] == 0
    np.testing.assert_allclose(penalty[0.5, True], 0.5 * deep, rtol=1e-5)
    np.testing.assert_allclose(penalty[0.5, False], 0.5 * (deep + linear), rtol=1e-5)


def test_titles_of_the_items_go_with_a_text_table_alone(tmp_path):
    items = tmp_path / "items.csv"
    pd.DataFrame({"item_id": [1, 2], "title": ["red car", "blue farm"]}).to_csv(items, index=False)
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    np.savez(tmp_path / "v.npz", ids=[1, 2], vectors=matrix)
    table = pd.DataFrame({"kind": "item", "id": ["1", "2"], "vector": matrix.tolist()})
    table.to_parquet(tmp_path / "v.parquet")
    for name in ("v.npz", "v.parquet"):
        np.testing.assert_array_equal(Start.read(tmp_path / name, items).vectors.items.matrix, matrix)
    pd.DataFrame({"kind": "item", "id": ["1"], "text": ["fast"]}).to_csv(tmp_path / "t.csv", index=False)

    class Spy:
        def encode(self, texts):
            self.texts = list(texts)
            return matrix

    spy = Spy()
    Start.read(tmp_path / "t.csv", items, encoder=spy)
    assert spy.texts == ["red car. fast", "blue farm"]
