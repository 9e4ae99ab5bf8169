"""kar and llm_cf as modes of a comparison: same batches as the others, recorded, refused where they cannot be."""

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import ConfigError, CoverageError, SelectiveConfig
from sllmr_plugin.cli import main
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.errors import BackboneError, RunFolderError
from sllmr_plugin.evaluation.compare import compare
from sllmr_plugin.evaluation.modes import Mode, Start
from sllmr_plugin.evaluation.report.sentences import compared
from sllmr_plugin.evaluation.report.summary import summarise
from sllmr_plugin.evaluation.store import RunFolder
from sllmr_plugin.evaluation.training import BestEpoch, RunSettings, train
from sllmr_plugin.knowledge import KARAdaptor
from sllmr_plugin.knowledge.id_vectors import IdVectors, Vectors
from sllmr_plugin.scores.table import ScoreTable

from .text_cases import N_ITEMS, N_USERS, encoded, interactions, reason_frame, reasoning_frame, text_frame

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.SLLMRWarning")
SETTINGS = RunSettings.quick(epochs=2, embedding_dim=4, batch_size=16)


def scores():
    rng = np.random.default_rng(2)
    pairs = [(f"u{u:02d}", f"i{i:02d}", rng.random()) for u in range(N_USERS) for i in rng.permutation(N_ITEMS)[:5]]
    return pd.DataFrame(pairs, columns=["user_id", "item_id", "score"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    modes = ["none", "kd", "kar", "llm_cf"]
    found = compare(
        interactions(), scores(), out=out, modes=modes, seeds=2, settings=SETTINGS, texts=text_frame(), verbose=False
    )
    return out, found


def test_the_modes_are_recorded_and_compared_with_the_plain_model(folder):
    out, comparison = folder
    results = json.loads((out / "results.json").read_text())
    assert [(run["mode"], run["seed"]) for run in results["runs"]] == [
        (mode, seed) for seed in (0, 1) for mode in ("none", "kd", "kar", "llm_cf")
    ]
    assert {run["mode"]: run["gate"] for run in results["runs"]} == dict.fromkeys(("none", "kd", "kar", "llm_cf"))
    assert {difference.mode for difference in comparison.differences} == {"kd", "kar", "llm_cf"}
    # there are so few users that two AUCs may be the same by chance
    losses = {run["mode"]: run["metrics"]["logloss"] for run in results["runs"] if run["seed"] == 0}
    assert len(set(losses.values())) == 4


def test_finished_runs_are_kept_and_other_texts_are_not_mixed_in(folder):
    out, comparison = folder
    arguments = {"out": out, "modes": ["none", "kar"], "seeds": 2, "settings": SETTINGS, "verbose": False}
    before = (out / "results.json").stat().st_mtime_ns
    again = compare(interactions(), scores(), texts=text_frame(), **arguments)
    assert [run.auc for run in again.runs] == [run.auc for run in comparison.runs if run.mode in ("none", "kar")]
    assert (out / "results.json").stat().st_mtime_ns >= before
    other = text_frame().assign(text=lambda rows: rows["text"].str.replace("sea", "lake"))
    with pytest.raises(RunFolderError, match="other settings .texts was"):
        compare(interactions(), scores(), texts=other, **arguments)


def test_reasoning_is_used_and_said_of(tmp_path, folder):
    """The plain model and KAR are what they were without it; LLM-CF is not, and the report says why."""
    _, before = folder
    texts = pd.concat([text_frame(), reasoning_frame()])
    arguments = {"modes": ["none", "kar", "llm_cf"], "seeds": 1, "settings": SETTINGS, "verbose": False}
    found = compare(interactions(), scores(), out=tmp_path, texts=texts, **arguments)
    auc, auc_before = ({run.mode: run.auc for run in runs.runs if run.seed == 0} for runs in (found, before))
    assert [auc[mode] == auc_before[mode] for mode in ("none", "kar", "llm_cf")] == [True, True, False]
    told = json.loads((tmp_path / "inputs.json").read_text())["texts"]
    assert (told["n_users"], told["n_items"], told["model"]) == (10, 9, None)
    n_told = (reasoning_frame()["label"] == 1).sum(), (reasoning_frame()["label"] == 0).sum()
    assert (told["n_taken"], told["n_not_taken"]) == n_told == (18, 18)
    sentences = " ".join(compared(summarise(RunFolder(tmp_path, None))))
    assert "Texts are of 10 users and 9 items, and their file does not say who wrote them; LLM-CF's" in sentences
    assert "exemplars are 36 interactions with reasoning about them." in sentences
    assert "drawn, without reasoning" in " ".join(compared(summarise(RunFolder(folder[0], None))))


def test_curec_is_a_mode_and_combines_and_the_texts_may_be_in_several_tables(tmp_path, folder):
    """The plain model and KAR are what they were without reasons; a folder knows its reasons."""
    _, before = folder
    tables = [text_frame(), reason_frame()]
    arguments = {"seeds": 1, "settings": SETTINGS, "verbose": False}
    modes = ["none", "kar", "curec", "curec+gated", "init+align+curec"]
    start = Start(id_vectors_by_raw_id())
    found = compare(interactions(), scores(), out=tmp_path, modes=modes, texts=tables, start=start, **arguments)
    auc, auc_before = ({run.mode: run.auc for run in runs.runs if run.seed == 0} for runs in (found, before))
    assert [auc[mode] for mode in ("none", "kar")] == [auc_before[mode] for mode in ("none", "kar")]
    assert len(set(auc.values())) > 3
    told = json.loads((tmp_path / "inputs.json").read_text())["texts"]
    n_reasons = (reason_frame()["kind"] == "reason").sum()
    assert (told["n_patterns"], told["n_reasons"]) == (10, n_reasons)
    sentences = " ".join(compared(summarise(RunFolder(tmp_path, None))))
    assert f"In CURec the patterns of 10 users attend to {n_reasons} reasons" in sentences
    other = reason_frame().assign(text=lambda rows: rows["text"].str.replace("sea", "lake"))
    with pytest.raises(RunFolderError, match="other settings .texts was"):
        compare(
            interactions(), scores(), out=tmp_path, modes=modes, texts=[text_frame(), other], start=start, **arguments
        )
    with pytest.raises(CoverageError, match="have no reasons, which CURec attends to"):
        compare(interactions(), scores(), out=tmp_path / "x", modes=["curec"], texts=text_frame(), **arguments)


def id_vectors_by_raw_id():
    rng = np.random.default_rng(4)
    ids = pd.Series([f"i{item:02d}" for item in range(N_ITEMS)])
    return Vectors(IdVectors(ids, rng.normal(size=(N_ITEMS, 6)).astype(np.float32)), None)


def test_texts_of_items_alone_are_refused_before_anything_is_trained(tmp_path):
    frame = text_frame()
    frame = frame[frame["kind"] != "user"]
    with pytest.raises(CoverageError, match=r"mode kar: none of the \d+ users .* leave the mode out"):
        compare(
            interactions(),
            scores(),
            out=tmp_path / "run",
            modes=["none", "kar"],
            seeds=1,
            settings=SETTINGS,
            texts=frame,
            verbose=False,
        )
    assert not list(tmp_path.glob("run/rankings/deepfm*"))


def test_without_texts_and_with_unknown_modes_nothing_is_trained(tmp_path):
    for modes in (["none", "kar"], ["llm_cf"]):
        with pytest.raises(ConfigError, match=f"mode {modes[-1]} reads LLM-written texts.*--texts FILE"):
            compare(interactions(), scores(), out=tmp_path / "runs", modes=modes)
    with pytest.raises(ConfigError, match=r"mode='karr' is not one of 'none', .*'kar', 'llm_cf'"):
        compare(interactions(), scores(), out=tmp_path / "runs", modes=["karr"])
    with pytest.raises(BackboneError, match="afm takes no dense columns"):
        compare(interactions(), scores(), out=tmp_path / "runs", modes=["kar"], backbone="afm", texts=text_frame())
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="mode kar reads"):
        Mode.of("kar").adaptor(interactions(), ({}, np.zeros(0)), 0)


def test_the_command_asks_for_texts_before_it_reads_anything(capsys):
    arguments = ["compare", "--interactions", "x.csv", "--scores", "y.csv", "--out", "z", "--modes", "none,kar"]
    assert main(arguments) != 0
    assert "mode kar reads LLM-written texts" in capsys.readouterr().err


def test_the_kept_epoch_is_that_of_backbone_and_adaptor(monkeypatch):
    """Both are as they were when the best epoch was measured."""
    data = interactions()
    rows = training_rows(data)
    table = ScoreTable.read(scores(), user_index=data.user_index, item_index=data.item_index)
    aucs, seen = iter([0.5, 0.9, 0.1]), []

    def end(self, epoch, logs=None):
        self._measure = lambda model: next(aucs)
        seen.append({name: p.detach().clone() for name, p in self.model.augmentation.adaptor.named_parameters()})
        kept(self, epoch, logs)

    kept = BestEpoch.on_epoch_end
    monkeypatch.setattr(BestEpoch, "on_epoch_end", end)
    trained = train(
        data,
        rows,
        table,
        backbone="deepfm",
        config=SelectiveConfig(weight=0.0),
        seed=0,
        settings=RunSettings.quick(epochs=3, embedding_dim=4, batch_size=16, learning_rate=0.05),
        adaptor=KARAdaptor(encoded()),
        verbose=False,
    )
    assert trained.epoch == 2
    for name, parameter in trained.model.augmentation.adaptor.named_parameters():
        assert torch.equal(parameter, seen[1][name])
        assert not torch.equal(parameter, seen[2][name])


def test_batches_come_in_the_order_of_the_plain_model(monkeypatch):
    data = interactions()
    rows = training_rows(data)
    table = ScoreTable.read(scores(), user_index=data.user_index, item_index=data.item_index)
    batches = {}
    for mode in ("none", "kar", "llm_cf", "curec"):
        seen = batches[mode] = []
        adaptor = Mode.of(mode).adaptor(data, rows, 0, texts=encoded(reasons=True))

        class Spy(BestEpoch):
            def on_epoch_begin(self, epoch, logs=None, seen=seen):
                forward = type(self.model).forward

                def watch(module, args):
                    if torch.is_grad_enabled():
                        seen.append(args[0][:, :2].clone())

                if epoch == 0:
                    self.handle = self.model.register_forward_pre_hook(watch)
                assert forward is type(self.model).forward

        monkeypatch.setattr("sllmr_plugin.evaluation.training.BestEpoch", Spy)
        with contextlib.redirect_stdout(io.StringIO()):
            train(
                data,
                rows,
                table,
                backbone="deepfm",
                config=SelectiveConfig(weight=0.0),
                seed=0,
                settings=SETTINGS,
                adaptor=adaptor,
                verbose=False,
            )
    assert len(batches["none"]) == 2 * -(-len(rows[1]) // 16)
    for mode in ("kar", "llm_cf", "curec"):
        assert all(torch.equal(a, b) for a, b in zip(batches["none"], batches[mode], strict=True))
