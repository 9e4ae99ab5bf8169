"""Every backbone of the zoo builds, trains and predicts over coded ids."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin.backends.deepctr import import_deepctr_torch
from sllmr_plugin.datasets.features import template_rows, training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError
from sllmr_plugin.zoo.deepctr import BACKBONES, build_model, check_backbone, feature_names, input_rows


@pytest.fixture(scope="module")
def data():
    pairs = [(user, item) for user in range(6) for item in range(user, user + 5)]
    return load_interactions(pd.DataFrame(pairs, columns=["user_id", "item_id"]))


@pytest.mark.parametrize("name", BACKBONES)
def test_builds_trains_and_predicts(name, data, capsys):
    model = build_model(name, data, embedding_dim=8, history_length=3, seed=2)
    model.compile("adam", "binary_crossentropy")
    x, y = training_rows(data, history_length=3)
    before = model.predict(input_rows(model, x))
    model.fit(input_rows(model, x), y, batch_size=8, epochs=1, verbose=0)
    after = model.predict(input_rows(model, x))
    assert after.shape == (len(y), 1)
    assert ((after > 0) & (after < 1)).all()
    assert not np.array_equal(before, after)


def test_every_single_task_class_of_the_library_has_a_name():
    models = import_deepctr_torch().models
    # the multi-task ones need two labels, which interactions do not have
    multi_task = {"BaseModel", "ESMM", "MMOE", "PLE", "SharedBottom"}
    classes = {
        name.lower() for name, value in vars(models).items() if inspect.isclass(value) and name not in multi_task
    }
    assert classes | {"dcnv2"} == set(BACKBONES)


@pytest.mark.parametrize("name", BACKBONES)
def test_vocabularies_leave_room_for_padding(name, data):
    model = build_model(name, data, embedding_dim=8)
    sizes = {
        key: table.num_embeddings for key, table in model.embedding_dict.items() if hasattr(table, "num_embeddings")
    }
    if name != "onn":  # whose embeddings are kept by pairs of fields
        assert sizes == {"user_id": data.n_users + 1, "item_id": data.n_items + 1}
    expected = (
        ["user_id", "item_id", "hist_item_id", "seq_length"] if name in ("din", "dien") else ["user_id", "item_id"]
    )
    assert feature_names(model) == expected


def test_the_two_cross_networks_differ_in_the_form_of_their_weights(data):
    vector, matrix = (build_model(name, data, embedding_dim=8).crossnet.kernels for name in ("dcn", "dcnv2"))
    assert vector.shape[-1] == 1
    assert matrix.shape[-1] == matrix.shape[-2] == 16


def test_seed_decides_the_initial_weights(data):
    first, again, other = (build_model("deepfm", data, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "mlr"])
def test_dropout_makes_training_forwards_random(name, data):
    X = torch.ones(64, 2 if name not in ("din", "dien") else 23)
    for rate in (0.0, 0.9):
        model = build_model(name, data, embedding_dim=8, dropout=rate).train()
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter)
        differ = not torch.equal(_logits(model, X), _logits(model, X))
        assert differ == (rate > 0)


def _logits(model, X):
    caught = []
    handle = model.out.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].detach()))
    model(X)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("deepfn", "deepfm"), ("dcn-v2", "dcnv2"), ("wide_deep", "deepfm"), ("autoInt+", "autoint")],
)
def test_an_unknown_name_names_the_nearest(wrong, right, data):
    with pytest.raises(BackboneError, match=f"unknown backbone .*did you mean '{right}'. Valid names are wdl, "):
        build_model(wrong, data)


def test_names_in_any_case():
    assert check_backbone("FiBiNET", 16) == "fibinet"


@pytest.mark.parametrize(
    ("name", "sizes", "told"),
    [
        ("difm", {"embedding_dim": 6}, "positive multiple of 4"),
        ("autoint", {"embedding_dim": 5}, "positive multiple of 2"),
        ("deepfm", {"embedding_dim": 0}, "positive multiple of 1"),
        ("deepfm", {"dropout": 1.0}, r"number in \[0, 1\)"),
        ("mlr", {"dropout": 0.5}, "leave it at 0"),
    ],
)
def test_sizes_that_do_not_fit(name, sizes, told, data):
    with pytest.raises(BackboneError, match=told):
        build_model(name, data, **sizes)


def test_arguments_reach_the_model(data):
    model = build_model("dcn", data, embedding_dim=8, arguments={"cross_num": 3, "dnn_hidden_units": [5]})
    assert model.crossnet.kernels.shape[0] == 3
    assert [layer.out_features for layer in model.dnn.linears] == [5]
    plain, given = (
        build_model("dcn", data, embedding_dim=8, arguments=arguments)
        for arguments in (None, {"cross_num": 2, "dnn_hidden_units": (128, 128)})  # the class's own defaults
    )
    assert str(plain) == str(given)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), given.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (
            "deepfm",
            {"dnn_hiden_units": [8]},
            "no argument 'dnn_hiden_units' that can be set; did you mean 'dnn_hidden_un",
        ),
        ("deepfm", {"linear_feature_columns": []}, "no argument 'linear_feature_columns'"),
        ("deepfm", {"gpus": [0]}, "no argument 'gpus'"),
        ("deepfm", {"dnn_hidden_units": 8}, "8 is a whole number, but a list of whole numbers is wanted"),
        ("deepfm", {"dnn_hidden_units": ["8"]}, "a list of whole numbers is wanted"),
        ("deepfm", {"use_fm": 1}, "1 is a whole number, but true or false is wanted"),
        ("deepfm", {"dnn_dropout": 0.5}, "it is the dropout of the training"),
        ("afm", {"afm_dropout": 0.5}, "it is the dropout of the training"),
        ("deepfm", {"seed": 3}, "it is the seed of the training"),
        ("dcn", {"cross_parameterization": "matrix"}, "it belongs to the backbone's name"),
        ("deepfm", {"task": "regression"}, "click models are binary"),
        ("autoint", {"att_head_num": 3}, "positive multiple of 3"),
        ("autoint", {"att_head_num": 0}, "att_head_num=0; take 1 or more"),
        ("deepfm", {"dnn_activation": "relux"}, "DeepFM cannot be built with {'dnn_activation': 'relux'}"),
    ],
)
def test_arguments_that_do_not_fit(name, arguments, told, data):
    with pytest.raises(BackboneError) as caught:
        build_model(name, data, arguments=arguments)
    assert told in str(caught.value)


def test_a_rate_that_is_off_by_default_may_be_any_number(data):
    build_model("deepfm", data, arguments={"l2_reg_dnn": 1e-5})


def test_input_rows_selects_in_model_order_and_names_what_is_missing(data):
    rows, _ = training_rows(data, history_length=3)
    rows = dict(reversed(rows.items()))
    assert list(input_rows(build_model("nfm", data), rows)) == ["user_id", "item_id"]
    del rows["hist_item_id"]
    with pytest.raises(BackboneError, match="the model reads 'hist_item_id', but the rows have only"):
        input_rows(build_model("din", data, history_length=3), rows)


def test_dien_scores_users_without_history(data):
    rows = template_rows(data, np.array([0, 0]), split="valid", history_length=3)
    assert rows["seq_length"].tolist() == [0, 0]
    model = build_model("dien", data, history_length=3)
    assert model.predict(input_rows(model, rows)).shape == (2, 1)
    assert input_rows(build_model("din", data, history_length=3), rows)["seq_length"].tolist() == [0, 0]
