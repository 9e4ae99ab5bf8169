"""Models with task='regression': pairs order their raw output, and what needs a probability is refused."""

import warnings

import numpy as np
import pytest
import torch

from sllmr_plugin import GateCollapsedWarning, InactiveWarning, SelectiveConfig, SLLMRError, unwrap
from sllmr_plugin.evaluation.reliability import reliability
from sllmr_plugin.wrapping import is_wrapped

from .matrix import backbones as zoo
from .matrix.test_training import PLENTY, ordered_as_llm

BY_NAME = {backbone.name: backbone for backbone in zoo.BACKBONES}
DEEPFM = BY_NAME["DeepFM"]
ON = SelectiveConfig(**PLENTY, gate="none", weight=20.0)  # beside squared errors of ratings, which are large


def ratings():
    """Ratings from 1 to 5 that fall with the item's code, so that they contradict the scores."""
    item = zoo.samples()[0]["item_id"]
    return (5 - 4 * item / zoo.N_ITEMS).astype(np.float32)


def with_probes():
    frame = zoo.score_frame()
    frame.loc[frame.groupby("user_id").tail(1).index, "kind"] = "probe"
    return frame


def build(backbone=DEEPFM):
    return zoo.build(backbone, task="regression")


def fit(model, backbone=DEEPFM, epochs=2, y=None, **options):
    torch.manual_seed(3)
    return model.fit(
        zoo.inputs(model), ratings() if y is None else y, batch_size=48, epochs=epochs, verbose=0, **options
    ).history


@pytest.mark.parametrize("name", ["DeepFM", "MLR", "DIN", "DCNMix"])
@pytest.mark.parametrize("loss", ["ranknet", "hinge"])
def test_pairs_move_the_raw_output_towards_the_llm(name, loss):
    backbone = BY_NAME[name]
    shares = []
    for weight in (0.0, ON.weight):
        model = zoo.wrapped(backbone, build(backbone), ON.replace(weight=weight, loss=loss))
        zoo.compile_model(backbone, model)
        history = fit(model, epochs=12)
        assert all(np.isfinite(history["loss"]))
        shares.append(ordered_as_llm(zoo, model))
    assert history["sllmr_loss"][-1] < history["sllmr_loss"][0]
    assert shares[1] > shares[0] + 0.1


def test_the_pair_loss_is_that_of_differences_of_the_output():
    model = zoo.wrapped(DEEPFM, build(), ON.replace(loss="hinge", margin=0.7))
    zoo.compile_model(DEEPFM, model)
    model.sllmr.session = session = zoo.open_session(DEEPFM, model)
    session.begin_epoch(0)
    plans = []
    plan_of = session.plan
    session.plan = lambda batch: plans.append(plan_of(batch)) or plans[-1]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.eval()
    batch = zoo.batch(model)[:48]
    model(batch)
    with torch.no_grad():
        score = model(torch.cat([batch, plans[0].rows])).flatten()[plans[0].source]
    terms = [
        max(0.0, 0.7 - float(score[i] - score[j]))
        for i, j in zip(plans[0].pairs.preferred.tolist(), plans[0].pairs.other.tolist(), strict=True)
    ]
    # batch_mean: lambda times the rows of the batch times the mean
    expected = ON.weight * 48 * sum(terms) / len(terms)
    assert session.take_loss().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["DeepFM", "MLR", "DIN"])
def test_without_weight_and_after_unwrap_it_is_the_plain_model(name):
    backbone = BY_NAME[name]
    plain = build(backbone)
    zoo.compile_model(backbone, plain)
    expected = fit(plain)
    for config, off in ((ON.replace(weight=0.0), lambda model: model), (ON, unwrap)):
        model = build(backbone)
        zoo.compile_model(backbone, model)
        model = off(zoo.wrapped(backbone, model, config))
        assert fit(model) == expected
        assert list(model.state_dict()) == list(plain.state_dict())
        np.testing.assert_array_equal(zoo.predict(model), zoo.predict(plain))


REFUSED = {
    "loss='mse'": {"loss": "mse"},
    "loss='bce'": {"loss": "bce"},
    "loss='kd'": {"loss": "kd"},
    "score_space='logit'": {"gate": "none", "score_space": "probability"},
    "uncertainty='mc_dropout'": {"gate": "disagreement"},
    "uncertainty='entropy'": {"gate": "joint", "uncertainty": "entropy"},
    "'ensemble'": {"gate": "budget"},
}


@pytest.mark.parametrize(("fragment", "settings"), REFUSED.items(), ids=REFUSED)
def test_what_needs_a_probability_is_refused_with_a_remedy(fragment, settings):
    config = SelectiveConfig(**settings)
    model = build()
    with pytest.raises(SLLMRError, match=fragment):
        zoo.wrapped(DEEPFM, model, config, with_probes())
    assert not is_wrapped(model)
    zoo.wrapped(DEEPFM, model, config.replace(weight=0.0), with_probes())  # does nothing, so it needs nothing
    with pytest.raises(SLLMRError, match=fragment):
        model.sllmr.configure(weight=0.5)
    zoo.wrapped(DEEPFM, zoo.build(DEEPFM), config, with_probes())  # a probability has all of it


def test_without_probes_the_defaults_train():
    model = zoo.wrapped(DEEPFM, build(), SelectiveConfig())
    zoo.compile_model(DEEPFM, model)
    assert fit(model)["sllmr_pairs"][1] > 0


@pytest.mark.parametrize("mode", ["gated", "joint"])
def test_gates_take_the_variance_of_dropout(mode):
    config = SelectiveConfig.of_mode(mode, {"weight": 0.5, "uncertainty": "mc_dropout", "mc_samples": 4})
    model = zoo.wrapped(DEEPFM, build(), config, with_probes())
    zoo.compile_model(DEEPFM, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateCollapsedWarning)
        assert fit(model)["sllmr_pairs"][1] > 0
    q, wide = (judged_uncertainty(model, ratings(), factor) for factor in (1, 10))
    assert 0 <= q.min() < q.max() <= 1
    labels = ratings().astype(float).var()
    passes = q * labels / (1 - q)  # the same variance of passes beside labels ten times as wide
    np.testing.assert_allclose(wide, passes / (passes + 100 * labels), rtol=1e-3)


def judged_uncertainty(model, labels, factor):
    torch.manual_seed(3)
    return model.judge_probes(zoo.inputs(model), factor * labels).uncertainty.double().numpy()


def test_reliability_refuses_the_uncertainty_of_a_probability():
    model = zoo.wrapped(DEEPFM, build(), ON, with_probes())
    with pytest.raises(SLLMRError, match="'ensemble'"):
        reliability(model, x=zoo.inputs(model), y=ratings())
    config = SelectiveConfig(uncertainty="mc_dropout", mc_samples=3)
    result = reliability(model, x=zoo.inputs(model), y=ratings(), config=config, resamples=10)
    assert result.table["n_pairs"].iloc[0] > 0


def test_every_rating_is_an_interaction():
    x, _ = zoo.samples()
    model = zoo.wrapped(DEEPFM, build(), ON.replace(gate="fixed", tail_quantile=0.0))
    counts = np.bincount(x["user_id"], minlength=zoo.N_USERS + 1)
    for y in (ratings(), ratings() - 3):  # the scale of labels says nothing of who is cold
        usable = model._usable({"x": list(zoo.inputs(model).values()), "y": y})
        assert usable.cold.tolist() == (counts < 3).tolist()
    assert not is_wrapped(unwrap(model))


def test_clicks_are_clicks_under_a_loss_with_logits():
    model = zoo.wrapped(DEEPFM, build(), ON.replace(gate="fixed", tail_quantile=0.0))
    x, y = zoo.samples()
    usable = model._usable({"x": list(zoo.inputs(model).values()), "y": y})
    assert usable.cold.tolist() == (np.bincount(x["user_id"][y == 1], minlength=zoo.N_USERS + 1) < 3).tolist()


def test_a_regression_that_never_tells_items_apart_is_told():
    model = zoo.wrapped(DEEPFM, build(), ON)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.compile(torch.optim.SGD(model.parameters(), lr=0.0), "mse")
    with pytest.warns(InactiveWarning, match=r"scores all items alike"):
        fit(model, epochs=1)
