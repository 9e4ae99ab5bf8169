"""Gates through DeepCTR-Torch's own `fit`: history, status, files and copies."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import re
import warnings

import pytest
import torch

from sllmr_plugin import ConfigError, GateCollapsedWarning, SelectiveConfig, SLLMRError
from sllmr_plugin.evaluation import gate_map
from sllmr_plugin.regularizer.signals import ENTRY_SIGNALS, PAIR_SIGNALS, PairSignals

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
NAMES = {
    "disagreement": PAIR_SIGNALS,
    "bilevel": PAIR_SIGNALS,
    "joint": ENTRY_SIGNALS,
    "budget": ENTRY_SIGNALS,
    "fixed": None,
}


def scores(probes=True):
    """Return the shared score table; with probes, each user's last item is one, which the LLM puts first."""
    frame = zoo.score_frame()
    if probes:
        last = frame.groupby("user_id").tail(1).index
        frame.loc[last, "kind"] = "probe"
        frame.loc[last, "score"] = 0.99
    return frame


def ready(gate, probes=True, **settings):
    config = SelectiveConfig(**{"gate": gate, "weight": 0.5, "cold_threshold": 9, **settings})
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, scores(probes))
    zoo.compile_model(DEEPFM, model)
    return model


def fit(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        return zoo.fit(DEEPFM, model, **options).history


# ---------------------------------------------------------------------- what is reported


@pytest.mark.parametrize(("gate", "names"), NAMES.items())
def test_the_history_has_the_gates_coefficients_of_every_epoch(gate, names):
    model = ready(gate, warmup_epochs=1)
    history = fit(model, epochs=3)
    written = {key.removeprefix("sllmr_gate_w_"): values for key, values in history.items() if "_w_" in key}
    assert list(written) == ([] if names is None else [*names, "bias"])
    for name, values in written.items():
        assert len(values) == len(history["loss"]) == 3
        assert values[0] == 0  # of the warm-up: nothing is known yet
        assert values[-1] == model.sllmr.gate.coefficients()[name]
    if names is not None:
        assert any(values[1] != 0 for values in written.values())
        assert f"gate_w_{names[0]}" in str(model.sllmr.status())


@pytest.mark.parametrize(("gate", "known"), [("disagreement", True), ("bilevel", True), ("budget", False)])
def test_status_says_what_stands_behind_the_gate(gate, known):
    model = ready(gate)
    assert not model.sllmr.status().calibrated
    fit(model, epochs=1)
    status = model.sllmr.status()
    assert status.calibrated == known
    assert ("not calibrated: no held-out outcomes" in str(status)) == (not known)
    assert ("fitted on probes" in str(status)) == known


@pytest.mark.parametrize("gate", ["auto", "fixed", "joint", "budget"])
def test_gates_without_probes_train_and_say_that_they_are_not_calibrated(gate):
    model = ready(gate, probes=False)
    assert min(fit(model)["sllmr_pairs"]) > 0
    assert not model.sllmr.status().calibrated
    assert "not calibrated" in str(model.sllmr.status())


@pytest.mark.parametrize("gate", ["disagreement", "bilevel"])
def test_a_gate_that_needs_probes_names_the_remedy(gate, tmp_path):
    remedy = f"gate='{gate}' needs probes: .*kind=probe.* Add some, or use gate='fixed'"
    with pytest.raises(SLLMRError, match=remedy):
        ready(gate, probes=False)
    model = ready("auto", probes=False)
    with pytest.raises(SLLMRError, match=remedy):
        model.sllmr.configure(gate=gate)
    assert model.sllmr.config.gate == "auto"
    ready(gate).sllmr.save(tmp_path)
    with pytest.raises(SLLMRError, match=remedy):
        model.sllmr.load(tmp_path)
    model.sllmr.configure(gate="none")  # there is nothing to fit


def test_the_defaults_in_the_docstring_are_the_defaults():
    written = re.findall(r"^(\w+) : .*default=(.+)$", inspect.cleandoc(SelectiveConfig.__doc__), flags=re.MULTILINE)
    assert {name: ast.literal_eval(value) for name, value in written} == SelectiveConfig().to_dict()


# ---------------------------------------------------------------------- descent


def test_the_budget_is_part_of_the_descent_of_fit():
    joint, budget = ready("joint"), ready("budget")
    for model in (joint, budget):
        for group in model.optim.param_groups[1:]:
            group["lr"] = 0.1
    closing, held = fit(joint, epochs=12), fit(budget, epochs=12)
    assert closing["sllmr_gate"][-1] < 0.2
    assert held["sllmr_gate"][-1] == pytest.approx(0.5, abs=0.1)
    assert budget.sllmr.gate.multiplier.item() > 0
    assert set(budget.sllmr.gate.parameters()) <= {p for group in budget.optim.param_groups for p in group["params"]}
    assert not any("gate" in key or "multiplier" in key for key in budget.state_dict())


# ---------------------------------------------------------------------- files and copies


def some_pairs():
    generator = torch.Generator().manual_seed(0)
    preferred, other = (torch.rand(50, 3, generator=generator) for _ in range(2))
    return PairSignals(preferred.round(), other.round(), torch.rand(50, generator=generator))


@pytest.mark.parametrize("gate", NAMES)
def test_every_kind_of_gate_is_saved_and_loaded(gate, tmp_path):
    model = ready(gate)
    fit(model)
    model.sllmr.save(tmp_path)
    fresh = ready("disagreement" if gate == "fixed" else "fixed")
    fresh.sllmr.load(tmp_path)
    mine, theirs = model.sllmr.gate, fresh.sllmr.gate
    assert type(mine) is type(theirs)
    assert fresh.sllmr.config == model.sllmr.config
    assert fresh.sllmr.status().calibrated == model.sllmr.status().calibrated == (gate in ("disagreement", "bilevel"))
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())
    assert torch.equal(mine(some_pairs()), theirs(some_pairs()))
    if gate != "fixed":
        assert any(value != 0 for value in theirs.coefficients().values())
    assert min(fit(fresh, epochs=1)["sllmr_pairs"]) > 0  # and goes on from there


def test_a_gate_of_another_kind_is_not_loaded(tmp_path):
    ready("auto").sllmr.save(tmp_path)  # a disagreement gate, as there are probes
    without = ready("auto", probes=False)
    with pytest.raises(SLLMRError, match="holds a DisagreementGate, .* make a FixedGate. Use the score table"):
        without.sllmr.load(tmp_path)


def remembered(model):
    memory = model.sllmr.disagreements
    return {tuple(key) for key in memory.keys[memory.seen].tolist()}


def reloaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, reloaded], ids=["deepcopy", "torch.save"])
def test_disagreements_are_remembered_over_trainings_and_in_copies(copied):
    model = ready("disagreement")
    fit(model)
    first = remembered(model)
    assert first
    fit(model, epochs=1)
    assert remembered(model) >= first
    twin = copied(model)
    assert remembered(twin) == remembered(model)
    assert twin.sllmr.gate.coefficients() == model.sllmr.gate.coefficients()
    fit(twin, epochs=1)
    assert remembered(twin) >= remembered(model)
    twin.sllmr.disagreements.seen[:] = False
    assert remembered(model) >= first  # a memory of its own


def test_disagreements_are_saved_and_loaded_with_the_gate(tmp_path):
    model = ready("disagreement")
    fit(model)
    model.sllmr.save(tmp_path)
    fresh = ready("disagreement")
    fresh.sllmr.load(tmp_path)
    first = remembered(model)
    assert first
    assert remembered(fresh) == first
    fit(fresh, epochs=1)  # a new backbone disagrees about other pairs
    assert remembered(fresh) >= first


def test_a_changed_signal_starts_the_gate_anew_but_forgets_no_disagreement():
    model = ready("disagreement")
    fit(model)
    first = remembered(model)
    model.sllmr.configure(uncertainty="entropy")
    assert not model.sllmr.status().calibrated
    assert remembered(model) == first
    model.sllmr.configure(weight=0.1)
    fit(model, epochs=1)
    assert remembered(model) >= first
    assert model.sllmr.status().calibrated


# ---------------------------------------------------------------------- half precision, compiled parts


@pytest.mark.parametrize("name", ["DeepFM", "xDeepFM"])
def test_a_wrapped_model_trains_under_autocast(name):
    backbone = next(one for one in zoo.BACKBONES if one.name == name)

    def trained(half):
        model = zoo.wrapped(backbone, zoo.build(backbone), SelectiveConfig(gate="none", weight=0.5), zoo.score_frame())
        zoo.compile_model(backbone, model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            history = zoo.fit(backbone, model, epochs=3).history
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        return history

    half, full = trained(half=True), trained(half=False)
    assert half["sllmr_pairs"] == full["sllmr_pairs"]
    # Batch normalisation of a fresh model's tiny numbers makes a first epoch of rounding.
    assert half["sllmr_loss"][1:] == pytest.approx(full["sllmr_loss"][1:], rel=0.1)
    assert half["loss"] != full["loss"]  # it was half precision


def test_a_compiled_part_trains_and_keeps_its_keys():
    model = ready("none")
    keys = list(model.state_dict())
    model.dnn.compile(backend="eager")  # traced by TorchDynamo; no C++ compiler is needed
    compiled, plain = fit(model, epochs=2), fit(ready("none"), epochs=2)
    assert list(model.state_dict()) == keys
    assert compiled["sllmr_loss"] == pytest.approx(plain["sllmr_loss"], rel=1e-4)


# ---------------------------------------------------------------------- a gate's map


def test_the_map_of_a_gate_has_its_alphas():
    model = ready("fixed")
    table = gate_map(model).set_index(["cold", "long_tail_items", "uncertainty", "gap"])["alpha"]
    for (cold, tails, _, _), alpha in table.items():
        assert alpha == (1 if cold else tails / 2)
    model = ready("disagreement")
    assert (gate_map(model)["alpha"] == 0).all()
    fit(model, epochs=1)
    found = gate_map(model)
    row = found.query("cold and long_tail_items == 1 and uncertainty == 0.9 and gap == 0.3")["alpha"].item()
    z = torch.tensor([[1.0, 0.0, 0.9]]), torch.tensor([[1.0, 1.0, 0.9]])
    assert row == pytest.approx(model.sllmr.gate(PairSignals(*z, torch.tensor([0.3]))).item(), abs=1e-6)
    assert found["alpha"].max() > found["alpha"].min()


def test_a_model_without_a_gate_has_no_map():
    plain = zoo.build(DEEPFM)
    with pytest.raises(ConfigError, match="no gate to map"):
        gate_map(plain)
    with pytest.raises(ConfigError, match="no gate to map"):
        gate_map(ready("none", loss="mse"))


# ---------------------------------------------------------------------- a gate that is closed


def with_a_closed_gate(**options):
    frame = scores()
    frame.loc[frame["kind"] == "probe", "score"] = 0.01  # always wrong where it can be looked at
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(gate="disagreement", weight=0.5, **options), frame)
    zoo.compile_model(DEEPFM, model)
    with pytest.warns(GateCollapsedWarning):
        history = zoo.fit(DEEPFM, model, epochs=2).history
    assert min(history["sllmr_pairs"]) > 0
    assert history["sllmr_gate"] == [0.0] * 2
    assert history["sllmr_loss"] == [0.0] * 2
    return model


def test_a_closed_gate_trains_the_plain_model_bit_for_bit():
    plain = zoo.build(DEEPFM)
    zoo.compile_model(DEEPFM, plain)
    zoo.fit(DEEPFM, plain, epochs=2)
    model = with_a_closed_gate()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("options", [{"in_batch_pairs": True, "user_source": "batch"}, {"uncertainty": "mc_dropout"}])
def test_steps_of_a_closed_gate_need_no_rows(options):
    with_a_closed_gate(**options)
