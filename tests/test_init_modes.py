"""Comparisons from initialised embeddings, beside what needs no training, with negatives redrawn and patience."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import SelectiveConfig, Vectors
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, ConfigError, RunFolderError, VectorsError
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation import training as training_module
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.comparison import format_table
from sllmr_plugin.evaluation.modes import Start, with_semantic_ids
from sllmr_plugin.evaluation.ranking import full_ranking, summarize
from sllmr_plugin.evaluation.report import write_report
from sllmr_plugin.evaluation.report.summary import summarise
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.training import BestEpoch, RunSettings, train
from sllmr_plugin.evaluation.untrained import UNTRAINED, UntrainedModel
from sllmr_plugin.knowledge.semantic_ids import SemanticIds
from sllmr_plugin.scores.table import ScoreTable

from .evaluation_cases import N_ITEMS, N_USERS, interactions, ranking, result

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.SLLMRWarning")
SMALL = RunSettings.quick(epochs=2, embedding_dim=4, batch_size=16, valid_users=None)
KINDS = ("racing car", "farm animal", "space ship", "chess board")


def items():
    ids = [f"i{item:02d}" for item in range(N_ITEMS)]
    return pd.DataFrame({"item_id": ids, "title": [f"{KINDS[k % 4]} number{k % 7}" for k in range(N_ITEMS)]})


def scores():
    rng = np.random.default_rng(5)
    pairs = [(f"u{user:02d}", f"i{item:02d}") for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[:6]]
    return pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(score=rng.random(len(pairs)))


@pytest.fixture
def data():
    return load_interactions(interactions(), items())


@pytest.fixture
def start():
    return Start(Vectors.read(items()), scale=0.5)


def run(data, *, mode="none", settings=SMALL, **options):
    table = ScoreTable.read(scores(), user_index=data.user_index, item_index=data.item_index)
    config = SelectiveConfig.of_mode(mode, {"seed": 3})
    rows = training_rows(data, negatives=settings.negatives, seed=1)
    return train(
        data, rows, table, backbone="deepfm", config=config, seed=1, settings=settings, verbose=False, **options
    )


def test_a_folder_refuses_other_titles_since_content_is_ranked_by_them(tmp_path, data):
    compare(data, scores(), out=tmp_path, modes=["none"], seeds=1, settings=SMALL, verbose=False)
    other = load_interactions(interactions(), items().assign(title="a title"))
    with pytest.raises(RunFolderError, match="item_texts was"):
        compare(other, scores(), out=tmp_path, modes=["none"], seeds=1, settings=SMALL, verbose=False)


def test_embeddings_are_aligned_in_the_mode_align(tmp_path, data, start):
    modes = ["none", "init", "init+align", "align+global"]
    found = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    assert len({run.epochs[-1]["loss"] for run in found}) == 4
    again = run(data, aligned=start.vectors)
    plain = run(data)
    states = [trained.model.state_dict() for trained in (again, plain)]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert list(states[0]) == list(states[1])


def test_features_are_distilled_in_the_mode_distill(tmp_path, data, start):
    modes = ["none", "init", "init+distill", "distill+global"]
    found = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    assert len({run.epochs[-1]["loss"] for run in found}) == 4
    again, plain = run(data, distilled=start.vectors), run(data)
    assert "sllmr_distill" in again.epochs[0]
    assert "sllmr_distill" not in plain.epochs[0]


def test_semantic_ids_are_features_of_the_mode_sid(tmp_path, data, start):
    coded = with_semantic_ids(data, start.vectors)
    assert list(coded.attributes) == ["item_sid_0", "item_sid_1", "item_sid_2"]
    expected = SemanticIds.fit(start.vectors).assign(start.vectors).set_index("item_id")
    for item, code in data.item_index.items():
        codes = [attribute.codes[code] for attribute in coded.attributes.values()]
        assert codes == (expected.loc[item].tolist() if item in expected.index else [0, 0, 0])
    assert all(a.codes.max() < a.vocabulary_size for a in coded.attributes.values())
    numbers = {name: number for number, name in enumerate(sorted(data.item_index.index))}
    renamed = load_interactions(*(f.assign(item_id=f["item_id"].map(numbers)) for f in (interactions(), items())))
    texts = pd.DataFrame({"kind": "item", "id": [str(n) for n in numbers.values()], "text": items()["title"]})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    written = with_semantic_ids(renamed, Vectors.read(tmp_path / "texts.csv"))  # ids as text there, as numbers here
    assert all((attribute.codes[1:] > 0).all() for attribute in written.attributes.values())
    start = Start(start.vectors)  # sid reads no scale
    modes = ["none", "sid", "sid+global"]
    found = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    assert len({run.auc for run in found}) == 3
    alone = compare(data, scores(), out=tmp_path / "plain", modes=["none"], seeds=1, settings=SMALL, verbose=False)
    assert alone[0].auc == found[0].auc  # the plain model does not see them
    with pytest.raises(VectorsError, match="none of its items is in the interactions"):
        with_semantic_ids(data, Vectors.read({10**6: [0.0, 1.0], 10**6 + 1: [1.0, 0.0]}))


def test_semantic_ids_take_the_place_of_no_attribute(start):
    catalogue = items().assign(sid_1=["own", "other"] * (N_ITEMS // 2))
    own = load_interactions(interactions(), catalogue, attributes=["sid_1"])
    with pytest.raises(ConfigError, match=r"an attribute 'sid_1' already"):
        with_semantic_ids(own, start.vectors)


def test_vectors_are_inputs_of_the_mode_embed(tmp_path, data, start):
    modes = ["none", "embed", "init+embed+global"]
    found = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    assert len({run.auc for run in found}) == 3
    plain = Start(start.vectors)
    with pytest.raises(BackboneError, match="afm takes no dense columns"):
        compare(data, scores(), out=tmp_path / "x", modes=["embed"], backbone="afm", start=plain, verbose=False)
    with pytest.raises(ConfigError, match="mode embed reads vectors"):
        compare(data, scores(), out=tmp_path / "x", modes=["embed"], verbose=False)


def test_a_folder_keeps_what_needs_no_training_and_the_table_says_who_is_below(tmp_path, data, start):
    modes = ["none", "init", "init+global"]
    found = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())
    for name in UNTRAINED:
        assert {"auc", "auc_cold", "auc_tail"} <= results[name].keys()
        assert results[name]["auc"] == found.untrained[name]["auc"]
    popular = summarize(full_ranking(UntrainedModel(data), data, "test", verbose=False))
    assert found.untrained["popularity"]["auc"] == popular["auc"]
    assert RunFolder(tmp_path, None).untrained == found.untrained
    assert [run["mode"] for run in results["runs"]] == modes
    assert {d.mode for d in found.differences} == {"init", "init+global"}
    printed = format_table(found)
    for name in UNTRAINED:
        assert f"{name} " in printed
        below = [run.mode for run in found if run.auc < found.untrained[name]["auc"]]
        assert (f"below {name}, which needs no training: {', '.join(below)}" in printed) == bool(below)
    summary = summarise(RunFolder(tmp_path, None))
    shown = {row["mode"]: row["mean"] for row in summary["levels"] if row["stratum"] == "cold" and not row["label"]}
    assert list(shown) == [*modes, *UNTRAINED]
    assert {name: shown[name] for name in UNTRAINED} == {n: found.untrained[n]["auc_cold"] for n in UNTRAINED}
    assert {(row["baseline"], row["mode"]) for row in summary["additions"]} == {("init", "init+global")}
    page = write_report(tmp_path).read_text()
    assert "deepfm content+popularity" in page
    assert "AUC minus that of init" in page
    again = compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=start, verbose=False)
    assert [run.auc for run in again] == [run.auc for run in found]
    other = Start(start.vectors, scale=0.1)
    with pytest.raises(RunFolderError, match="start"):
        compare(data, scores(), out=tmp_path, modes=modes, seeds=1, settings=SMALL, start=other, verbose=False)


def test_a_run_that_starts_from_vectors_has_the_batches_of_the_plain_one(monkeypatch, data, start):
    seen = []
    original = torch.nn.functional.binary_cross_entropy

    def spy(prediction, target, **options):
        seen[-1].append(target.clone())
        return original(prediction, target, **options)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy", spy)
    models = []
    for options in ({}, {"start": start}, {"start": Start(start.vectors, scale=0.0)}):
        seen.append([])
        models.append(run(data, **options).model)
    assert all(torch.equal(one, two) for one, two in zip(seen[0], seen[1], strict=True))
    plain, started, untouched = (model.state_dict() for model in models)
    assert all(torch.equal(plain[name], untouched[name]) for name in plain)
    assert not torch.equal(plain["embedding_dict.item_id.weight"], started["embedding_dict.item_id.weight"])


@pytest.mark.parametrize("mode", ["none", "gated"])
def test_redrawn_negatives_differ_in_every_epoch_and_no_positive_does(monkeypatch, data, mode):
    settings = RunSettings.quick(epochs=3, embedding_dim=4, batch_size=16, valid_users=None, negatives=2, redraw=True)
    seen, original = [], training_module.input_rows
    monkeypatch.setattr(
        training_module, "input_rows", lambda model, rows: seen.append(rows["item_id"]) or original(model, rows)
    )
    trained = run(data, mode=mode, settings=settings)
    assert len(seen) == len(trained.epochs) == 3
    positives = [items.reshape(-1, 3)[:, 0] for items in seen]
    negatives = [items.reshape(-1, 3)[:, 1:] for items in seen]
    assert all((one == positives[0]).all() for one in positives)
    assert (negatives[0] != negatives[1]).any()
    assert (negatives[1] != negatives[2]).any()
    once = run(data, mode=mode, settings=settings)
    assert [epoch["loss"] for epoch in once.epochs] == [epoch["loss"] for epoch in trained.epochs]
    if mode == "gated":
        assert all(epoch["sllmr_pairs"] > 0 for epoch in trained.epochs)


def test_without_redrawing_the_first_epoch_is_the_same(data):
    sizes = {"epochs": 1, "embedding_dim": 4, "batch_size": 16, "valid_users": None}
    one, other = (run(data, settings=RunSettings.quick(**sizes, redraw=redraw)) for redraw in (False, True))
    assert one.epochs == other.epochs


def test_the_data_s_own_negatives_are_never_redrawn(monkeypatch):
    data = load_interactions(interactions(negatives=True), items())
    monkeypatch.setattr(training_module, "training_rows", lambda *_, **__: pytest.fail("drawn"))
    settings = RunSettings.quick(epochs=2, embedding_dim=4, batch_size=16, valid_users=None, redraw=True)
    assert len(run(data, settings=settings).epochs) == 2


@pytest.mark.parametrize("redraw", [False, True])
def test_training_stops_when_the_patience_runs_out(monkeypatch, data, redraw):
    aucs = iter([0.5, 0.7, 0.6, 0.65, 0.9])
    monkeypatch.setattr(training_module, "full_ranking", lambda *_, **__: pd.DataFrame({"auc": [next(aucs)]}))
    sizes = {"epochs": 9, "embedding_dim": 4, "batch_size": 16, "patience": 2, "redraw": redraw}
    trained = run(data, settings=RunSettings.quick(**sizes))
    assert (trained.epoch, trained.auc, len(trained.epochs)) == (2, 0.7, 4)


def test_without_patience_nothing_stops():
    best = BestEpoch(lambda model: 0.5, lambda *report: None)
    best.set_model(torch.nn.Linear(1, 1))
    for epoch in range(5):
        best.on_epoch_end(epoch)
        assert not best.is_over


def test_vectors_that_no_mode_starts_from_are_refused(tmp_path, data, start):
    with pytest.raises(ConfigError, match="no mode that reads them is compared; add init"):
        compare(data, scores(), out=tmp_path, modes=["none", "gated"], settings=SMALL, start=start, verbose=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "modes", "told"),
    [
        ({"scale": 0.1}, ["none", "align", "embed"], "scale .* is read by modes with init, not by none, align, embed"),
        ({"method": "random"}, ["sid"], "start.method.* is read by modes with init, not by sid"),
        (
            {"users": "none"},
            ["sid", "align"],
            "--initialise-users.* is read by modes with init, embed, not by sid, align",
        ),
        ({"users": "history"}, ["none", "embed"], None),
        ({"scale": 0.1, "method": "random"}, ["none", "init+global"], None),
    ],
)
def test_what_no_mode_reads_of_a_start_is_refused(tmp_path, data, start, monkeypatch, changes, modes, told):
    monkeypatch.setattr(compare_module, "train_and_rank", lambda *_, **__: pytest.fail("trained"))
    asked = {"out": tmp_path, "modes": modes, "start": Start(start.vectors, **changes), "verbose": False}
    if told is None:
        with pytest.raises(pytest.fail.Exception, match="trained"):
            compare(data, scores(), **asked)
        return
    with pytest.raises(ConfigError, match=told):
        compare(data, scores(), **asked)
    assert not list(tmp_path.iterdir())


def test_modes_that_start_from_vectors_need_some(tmp_path, data):
    with pytest.raises(ConfigError, match="--initialise titles or FILE"):
        compare(data, scores(), out=tmp_path, modes=["none", "init+gated"], settings=SMALL, verbose=False)
    assert not list(tmp_path.iterdir())


def test_a_table_without_models_below_says_nothing_of_it():
    from sllmr_plugin.evaluation.comparison import Comparison

    untrained = {"popularity": {"auc": 0.4, "auc_cold": 0.3, "auc_tail": float("nan")}}
    assert "below" not in format_table(Comparison([result(auc=0.5)], untrained=untrained))
    untrained["popularity"]["auc"] = 0.6
    assert "below popularity, which needs no training: none" in format_table(
        Comparison([result(auc=0.5, ranking=ranking())], untrained=untrained)
    )


def test_the_command_line_starts_from_titles_or_a_file(tmp_path, capsys):
    interactions().to_csv(tmp_path / "interactions.csv", index=False)
    items().to_csv(tmp_path / "items.csv", index=False)
    scores().to_csv(tmp_path / "scores.csv", index=False)
    texts = pd.DataFrame({"kind": "item", "id": items()["item_id"], "text": items()["title"].str.upper()})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    command = [
        "compare",
        "--interactions",
        str(tmp_path / "interactions.csv"),
        "--scores",
        str(tmp_path / "scores.csv"),
    ]
    command += [
        "--epochs",
        "1",
        "--embedding-dim",
        "4",
        "--batch-size",
        "16",
        "--seeds",
        "1",
        "--modes",
        "init,init+kd",
    ]
    with_items = [*command, "--items", str(tmp_path / "items.csv")]
    for name, source in (("titles", "titles"), ("file", str(tmp_path / "texts.csv"))):
        with contextlib.redirect_stderr(io.StringIO()):
            assert main([*with_items, "--initialise", source, "--redraw", "--out", str(tmp_path / name)]) == 0
        printed = capsys.readouterr().out
        assert "init+kd" in printed
        assert "content+popularity" in printed
    assert main([*command, "--initialise", "titles", "--out", str(tmp_path / "none")]) == 2
    assert "give that, too (--items)" in capsys.readouterr().err
    assert main([*command, "--initialise-scale", "0.1", "--out", str(tmp_path / "none")]) == 2
    assert "go with --initialise; give that, too" in capsys.readouterr().err
    assert main([*command, "--modes", "none,global", "--text-model", "tfidf", "--out", str(tmp_path / "none")]) == 2
    assert "encodes what --texts and --initialise read" in capsys.readouterr().err
