"""The modes similar, pretrain, triples and graph: what each trains in a comparison, a search and an experiment."""

from __future__ import annotations

import shlex

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import Triples, Vectors
from sllmr_plugin.cli import compare as compare_command
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.errors import BackboneError, ConfigError, DataError, RunFolderError
from sllmr_plugin.evaluation import compare as compare_module
from sllmr_plugin.evaluation import tune as tune_module
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.mode_inputs import ModeInputs, with_triples
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.training import RunSettings, Trained
from sllmr_plugin.evaluation.tune import tune
from sllmr_plugin.experiments.experiment import compose
from sllmr_plugin.experiments.running import train_experiment

from .evaluation_cases import N_ITEMS, interactions
from .test_init_modes import KINDS, items, run, scores

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.SLLMRWarning")
SMALL = RunSettings.quick(epochs=1, embedding_dim=4, batch_size=16, valid_users=None)


def triples():
    """A genre of each item, a second one of every third, a mood that belongs to one item."""
    rows = [(f"i{item:02d}", "genre", KINDS[item % 4], 0.5) for item in range(N_ITEMS)]
    rows += [(f"i{item:02d}", "genre", KINDS[(item + 1) % 4], 0.9) for item in range(0, N_ITEMS, 3)]
    rows += [("i01", "genre", "of one item", 1.0), ("i99", "genre", KINDS[0], 1.0)]
    return pd.DataFrame(rows, columns=["head", "relation", "tail", "confidence"])


@pytest.fixture
def data():
    return load_interactions(interactions(), items())


@pytest.fixture
def start():
    return Start(Vectors.read(items()))


def test_each_mode_trains_another_model_and_the_plain_one_stays(tmp_path, data, start, monkeypatch):
    trained = {}
    rank = compare_module.train_and_rank

    def watched(*args, mode, inspect, **options):
        def keep(model):
            trained[mode] = model
            inspect(model)

        return rank(*args, mode=mode, inspect=keep, **options)

    monkeypatch.setattr(compare_module, "train_and_rank", watched)
    modes = ["none", "similar", "pretrain", "triples", "init", "init+graph", "pretrain+init", "similar+gated"]
    options = {"seeds": 1, "settings": SMALL, "verbose": False}
    found = compare(data, scores(), out=tmp_path / "all", modes=modes, start=start, triples=triples(), **options)
    assert len({run.epochs[-1]["loss"] for run in found}) == len(modes)
    assert [mode for mode, model in trained.items() if "genre" in str(model.state_dict().keys())] == ["triples"]
    by_mode = {run.mode: run.epochs[0] for run in found}
    assert "sllmr_similar" in by_mode["similar"]
    assert {"sllmr_similar", "sllmr_pairs"} <= set(by_mode["similar+gated"])
    plain = trained["none"].state_dict()
    assert {name: value.shape for name, value in trained["pretrain"].state_dict().items()} == {
        name: value.shape for name, value in plain.items()
    }
    alone = compare(data, scores(), out=tmp_path / "plain", modes=["none"], **options)
    assert alone[0].auc == found[0].auc
    with pytest.raises(RunFolderError, match="triples"):
        compare(
            data,
            scores(),
            out=tmp_path / "all",
            modes=["triples", "init"],
            start=start,
            triples=triples()[:-1],
            **options,
        )


def test_a_training_is_told_what_the_mode_is_made_of(data, start):
    assert Mode.of("similar+pretrain+gated").targets(start) == {
        "aligned": None,
        "distilled": None,
        "similar": start.vectors,
        "pretrained": start.vectors,
    }
    assert set(Mode.of("align").targets(None).values()) == {None}
    plain, pretrained = run(data, settings=SMALL), run(data, settings=SMALL, pretrained=start.vectors)
    assert plain.epochs[0]["loss"] != pretrained.epochs[0]["loss"]
    first, again = (run(data, settings=SMALL, pretrained=start.vectors) for _ in range(2))
    assert first.epochs == again.epochs
    states = [one.model.state_dict() for one in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_tails_are_features_of_the_items(data):
    coded = with_triples(data, Triples.read(triples()))
    (attribute,) = coded.attributes.values()
    assert list(coded.attributes) == ["item_genre"]
    assert attribute.values.tolist() == sorted(KINDS)  # without the tail that one item has
    for item in range(N_ITEMS):
        own = [KINDS[(item + 1) % 4]] * (item % 3 == 0) + [KINDS[item % 4]]
        codes = attribute.codes[data.item_index[f"i{item:02d}"]]
        assert sorted(attribute.values[code - 1] for code in codes if code) == sorted(own)
    with pytest.raises(DataError, match="none of its items is in the interactions"):
        with_triples(data, Triples.read(triples().assign(head=[f"x{k}" for k in range(len(triples()))])))
    with pytest.raises(ConfigError, match="have an attribute 'genre' already"):
        with_triples(coded, Triples.read(triples()))


def test_modes_read_their_own_features_and_vectors(data, start):
    wanted = [Mode.of(name) for name in ("none", "sid", "triples", "sid+triples", "init+graph")]
    inputs = ModeInputs(data, wanted, start, triples())
    plain, sid, genre, both, graph = (list(inputs.data(mode).attributes) for mode in wanted)
    assert plain == graph == []
    assert sid == ["item_sid_0", "item_sid_1", "item_sid_2"]
    assert genre == ["item_genre"]
    assert both == sid + genre == list(inputs.coded.attributes)
    assert inputs.data(wanted[0]) is data
    assert inputs.start(wanted[0]) is start
    smoothed = Triples.read(triples()).smooth(start.vectors).items.matrix
    np.testing.assert_array_equal(inputs.start(wanted[4]).vectors.items.matrix, smoothed)
    assert not np.allclose(smoothed, start.vectors.items.matrix)


def test_what_is_missing_or_would_not_be_read_is_refused(tmp_path, data, start):
    options = {"out": tmp_path / "runs", "seeds": 1, "settings": SMALL, "verbose": False}
    with pytest.raises(ConfigError, match="mode triples, init.graph reads triples of the items; give a table"):
        compare(data, scores(), modes=["triples", "init+graph"], start=start, **options)
    with pytest.raises(ConfigError, match="triples is given, and none of the modes"):
        compare(data, scores(), modes=["none"], triples=triples(), **options)
    for mode in ("similar", "pretrain"):
        with pytest.raises(ConfigError, match=f"mode {mode} reads vectors of the items"):
            compare(data, scores(), modes=[mode], **options)
    with pytest.raises(ConfigError, match="graph smooths the vectors that another part reads. Add one, as in"):
        Mode.of("graph+triples")
    with pytest.raises(BackboneError, match="DIEN"):
        compare(data, scores(), modes=["triples"], backbone="dien", triples=triples(), **options)
    assert not (tmp_path / "runs").exists()


def test_a_search_trains_its_parts(tmp_path, data, start, monkeypatch):
    calls = []

    def fake(data, rows, scores, *, start, similar, pretrained, seed, **rest):
        told = similar is not None, pretrained is not None, len(data.attributes)
        calls.append((*told, None if start is None else start.vectors.source))
        return Trained(model=None, epoch=1, auc=0.5, seconds=0.1)

    monkeypatch.setattr(tune_module, "train", fake)
    options = {"n_trials": 3, "seeds": 1, "settings": SMALL, "verbose": False, "start": start, "triples": triples()}
    tune(data, scores(), out=tmp_path, parts="init+graph+similar+pretrain+triples", **options)
    assert calls[0] == (False, False, 0, None)
    smoothed = f"{start.vectors.source} smoothed by the triples DataFrame"
    assert calls[1:] == [(True, True, 1, smoothed)] * 2
    with pytest.raises(ConfigError, match="reads triples of the items"):
        tune(data, scores(), out=tmp_path / "other", parts="init+graph", **{**options, "triples": None})


def test_the_commands_read_triples(tmp_path, monkeypatch, capsys):
    paths = {"interactions": interactions(), "items": items(), "scores": scores()}
    for name, frame in paths.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    items().assign(kind=[KINDS[k % 4] for k in range(N_ITEMS)]).to_csv(tmp_path / "sorted.csv", index=False)
    base = [part for name in paths for part in (f"--{name}", str(tmp_path / f"{name}.csv"))]
    base += ["--triples", str(tmp_path / "sorted.csv"), "--triples-columns", "kind", "--initialise", "titles"]
    given, trained = {}, []

    def fake(data, rows, scores, *, start, seed, **rest):
        trained.append(None if start is None else start.vectors.source)
        return Trained(model=None, epoch=1, auc=0.5 if start is None else 0.6, seconds=0.1)

    monkeypatch.setattr(tune_module, "train", fake)
    small = ["--trials", "3", "--seeds", "1"]
    assert main(["tune", *base, "--parts", "init+graph", *small, "--out", str(tmp_path / "tune")]) == 0
    assert trained[0] is None
    assert trained[1].endswith(f"smoothed by {tmp_path / 'sorted.csv'}")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  sllmr compare "))

    def stop(*args, **options):
        given.update(options)
        raise ConfigError("seen")

    monkeypatch.setattr(compare_command, "compare", stop)
    for command in (
        ["compare", *base, "--modes", "none,init+graph", "--out", str(tmp_path / "runs")],
        shlex.split(line)[1:],
    ):
        given.clear()
        assert main(command) != 0
        assert given["triples"].relations.tolist() == ["kind"] * N_ITEMS
        assert given["modes"][:2] == ["none", "init+graph"]
    capsys.readouterr()
    without = [*base[:6], "--triples-columns", "kind"]
    assert main(["compare", *without, "--modes", "none", "--out", str(tmp_path / "runs")]) != 0
    assert "--triples-columns goes with --triples" in capsys.readouterr().err


def test_an_experiment_names_its_file_of_triples(tmp_path):
    folder = tmp_path / "games"
    folder.mkdir()
    for name, frame in (("interactions", interactions()), ("items", items()), ("triples", triples())):
        frame.to_csv(folder / f"{name}.csv", index=False)
    (tmp_path / "games.yaml").write_text(
        f"data:\n  name: games\n  root: {tmp_path}\n  triples: triples\n  split: column\n", encoding="utf-8"
    )
    small = ["training.epochs=1", "training.embedding_dim=4", "training.valid_users=null"]
    common = {"model": "deepfm", "data": str(tmp_path / "games.yaml")}
    experiment = compose(**common, assignments=[*small, "run.mode=init+graph", "start.source=titles"])
    assert experiment.reads == ("triples",)
    found = train_experiment(experiment, tmp_path / "runs", verbose=False)
    assert [run.mode for run in found] == ["init+graph"]
    plain, other = (
        compose(**common, assignments=[*small, "run.mode=none", *more]) for more in ([], ["data.triples=other"])
    )
    assert plain.name == other.name  # nothing of it is read
    absent = compose(**common, assignments=[*small, "run.mode=triples", "data.triples=null"])
    with pytest.raises(ConfigError, match="data.triples is null, which leaves only modes that read no triples"):
        train_experiment(absent, tmp_path / "absent", verbose=False)
