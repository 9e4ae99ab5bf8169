"""Gates, losses, pair rules and uncertainties register themselves: a new one takes one class and no other change."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch

from sllmr_plugin.config import SelectiveConfig
from sllmr_plugin.errors import ConfigError, GateCollapsedWarning
from sllmr_plugin.evaluation.trials import SearchSpace, describe
from sllmr_plugin.regularizer.gates import GATES, DisagreementGate, Gate, JointGate
from sllmr_plugin.regularizer.loss import SelectiveLoss
from sllmr_plugin.regularizer.losses import LOSSES, PairLoss, PointwiseLoss
from sllmr_plugin.regularizer.pairs import PAIR_RULES, PairRule
from sllmr_plugin.regularizer.uncertainty import UNCERTAINTIES, Uncertainty
from sllmr_plugin.scores.table import ScoreTable

from .matrix import backbones as zoo

DEEPFM = next(backbone for backbone in zoo.BACKBONES if backbone.name == "DeepFM")
REGISTRIES = {"gate": GATES, "loss": LOSSES, "pair_rule": PAIR_RULES, "uncertainty": UNCERTAINTIES}
VARIANTS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]
TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def _forget_what_a_test_adds(monkeypatch):
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def trained(**settings):
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), SelectiveConfig(weight=0.5, **settings))
    zoo.compile_model(DEEPFM, model)
    return model, zoo.fit(DEEPFM, model, epochs=1).history


def test_a_gate_is_one_class():
    class HalfGate(Gate, name="half"):
        """Follows the LLM half of the way."""

        collapse_remedy = "half of nothing is nothing."

        def forward(self, signals):
            return torch.full_like(signals.gap, 0.5)

        def coefficients(self):
            return {"share": 0.5}

    model, history = trained(gate="half")
    assert isinstance(model.sllmr.gate, HalfGate)
    assert history["sllmr_gate"] == [0.5]
    assert history["sllmr_gate_w_share"] == [0.5]
    assert "gate: HalfGate" in str(model.sllmr.status())
    assert "half" in SearchSpace.of(ScoreTable.read(zoo.score_frame()), {}).gates  # tuning tries it
    assert describe(SelectiveConfig(gate="half")) == "half, weight 0.1, margin 0"
    assert SelectiveLoss(gate="half").gate.name == "half"
    assert trained(gate=HalfGate)[1]["sllmr_gate"] == trained(gate=HalfGate())[1]["sllmr_gate"] == [0.5]


def test_a_gate_warns_in_its_own_words_when_it_has_shut():
    class ShutGate(Gate, name="shut"):
        """Follows nobody."""

        tuned = False
        collapse_remedy = "it was never meant to open."

        def forward(self, signals):
            return torch.zeros_like(signals.gap)

    with pytest.warns(GateCollapsedWarning, match="it was never meant to open"):
        trained(gate="shut")
    assert "shut" not in SearchSpace.of(ScoreTable.read(zoo.score_frame()), {}).gates


def test_a_gate_of_ones_own_is_fitted_on_disagreements_or_refused_without_probes():
    seen = []

    class Counting(Gate, name="counting"):
        """Counts what it is fitted on."""

        needs_probes = fits_disagreements = True

        def forward(self, signals):
            return torch.ones_like(signals.gap)

        def fit(self, signals, llm_right, user):
            seen.append(len(user))

    with pytest.raises(Exception, match="gate='counting' needs probes"):
        trained(gate="counting")
    frame = zoo.score_frame()
    frame["kind"] = "candidate"
    frame.loc[frame.groupby("user_id").head(1).index, "kind"] = "probe"
    config = SelectiveConfig(weight=0.5, gate="counting")
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, frame)
    zoo.compile_model(DEEPFM, model)
    zoo.fit(DEEPFM, model, epochs=2)
    assert len(seen) == 2
    assert seen[0] > 0


def test_a_loss_is_one_class():
    class Squared(PairLoss, name="squared"):
        """``max(0, margin - d)^2``."""

        default_margin = {"logit": 1.0, "probability": 0.5}
        tuned_margins = {"logit": (None, 2.0), "probability": (None,)}

        def __call__(self, difference, margin):
            return (margin - difference).clamp_min(0).square()

    model, history = trained(loss="squared", gate="none")
    assert history["sllmr_pairs"][0] > 0
    assert SelectiveConfig(loss="squared").resolved_margin == 1.0
    assert SearchSpace.of(ScoreTable.read(zoo.score_frame()), {"loss": "squared"}).margins == (None, 2.0)
    selective = SelectiveLoss(loss=Squared)
    scores, llm = torch.tensor([0.0, 0.5]), torch.tensor([0.9, 0.1])
    assert selective(scores, llm, torch.zeros(2, dtype=torch.int64)).item() == 1.5**2


def test_a_loss_of_single_items_names_its_own_row():
    class Absolute(PointwiseLoss, name="absolute"):
        """``|p - t|``."""

        def __call__(self, logit, probability, target):
            return (probability - target).abs()

    model, history = trained(loss="absolute")
    assert model.sllmr.config.mode == "absolute"
    assert "sllmr_gate" not in history
    assert history["sllmr_pairs"][0] > 0


def test_a_pair_rule_and_an_uncertainty_are_one_class_each():
    class Smallest(PairRule, name="smallest"):
        """Pairs of least gap."""

        def keys(self, gap, generator):
            return -gap

    class Certain(Uncertainty, name="certain"):
        """Knows everything."""

        def __call__(self, values):
            return torch.zeros_like(values)

    selective = SelectiveLoss(pairs_per_user=1, pair_rule="smallest")
    scores, llm = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.9, 0.8, 0.1])
    selective(scores, llm, torch.zeros(3, dtype=torch.int64))
    assert selective.statistics["loss"].item() == pytest.approx(torch.log1p(torch.tensor(1.0).exp()).item())
    model, _ = trained(gate="joint", uncertainty="certain", pair_rule=Smallest)
    assert model.sllmr.gate.weight[2].item() == 0  # the signal is 0 everywhere, so its weight never moved
    assert model.sllmr.gate.bias.item() != 0


def test_a_name_is_one_class_s_own():
    with pytest.raises(ConfigError, match="there is a gate named 'fixed' already"):

        class OtherFixed(Gate, name="fixed"):
            """Another."""

    with pytest.raises(ConfigError, match="there is a gate named 'auto' already"):

        class Auto(Gate, name="auto"):
            """Another."""


def test_a_class_without_a_name_does_not_pass_for_its_parent():
    class Stiff(JointGate):
        """The paper's gate with a start of its own."""

        def __init__(self):
            super().__init__()
            self.bias.data.fill_(3.0)

    assert SelectiveConfig(gate=Stiff).gate is Stiff
    model, _ = trained(gate=Stiff)
    assert type(model.sllmr.gate) is Stiff
    with pytest.raises(ConfigError, match="cannot be written to a file"):
        SelectiveConfig(gate=Stiff).to_yaml("unused.yaml")


def test_an_instance_keeps_its_settings_and_serves_several_models():
    config = SelectiveConfig(gate=DisagreementGate(caution=2.0))
    frame = zoo.score_frame()
    frame["kind"] = "candidate"
    frame.loc[frame.groupby("user_id").head(1).index, "kind"] = "probe"
    first, second = (zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, frame) for _ in range(2))
    assert first.sllmr.gate is not second.sllmr.gate
    assert first.sllmr.gate.caution == second.sllmr.gate.caution == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        zoo.compile_model(DEEPFM, first)
        zoo.fit(DEEPFM, first, epochs=1)
    assert not config.gate.calibrated
    assert first.sllmr.gate.calibrated
    assert pickle.loads(pickle.dumps(config)).gate.caution == 2.0


def test_configuring_another_instance_takes_its_settings():
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").head(1).index, "kind"] = "probe"
    config = SelectiveConfig(gate=DisagreementGate(caution=1.0))
    model = zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, frame)
    model.sllmr.configure(gate=DisagreementGate(caution=2.0))
    assert model.sllmr.gate.caution == 2.0
    kept = model.sllmr.gate
    model.sllmr.configure(weight=0.3)
    assert model.sllmr.gate is kept  # what it has learnt stays


@pytest.mark.parametrize(("kind", "name"), VARIANTS)
def test_every_variant_is_documented_and_tested(kind, name):
    cls = REGISTRIES[kind][name]
    assert cls.name == name
    assert inspect.getdoc(cls)
    assert inspect.getdoc(cls) != inspect.getdoc(REGISTRIES[kind].base)
    guide = (TESTS.parent / "docs" / "guide.md").read_text()
    assert re.search(rf"^\| .*`{name}`", guide, re.MULTILINE), f"docs/guide.md has no row of the {kind} {name}"
    sources = "\n".join(path.read_text() for path in TESTS.glob("test_*.py") if path.name != Path(__file__).name)
    assert cls.__name__ in sources or f'"{name}"' in sources
