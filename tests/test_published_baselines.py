"""LLM-CF's reconstruction and heads, and both adaptors as their authors have them, against loops over exemplars."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from sllmr_plugin import (
    AugmentError,
    ConfigError,
    CoverageError,
    KARAdaptor,
    LLMCFAdaptor,
    SelectiveConfig,
    align,
    augment,
    compare,
    unaugment,
    unwrap,
    wrap,
)
from sllmr_plugin.backends.step_losses import step_losses
from sllmr_plugin.datasets.features import training_rows
from sllmr_plugin.evaluation.modes import Mode
from sllmr_plugin.evaluation.training import RunSettings

from .test_adaptors import ITEMS, USERS, randomised, vector
from .test_augmenting import compiled, fit, model_of, score_frame
from .text_cases import encoded, id_vectors, interactions, reasoning_frame, text_frame

pytestmark = pytest.mark.filterwarnings("ignore::sllmr_plugin.CoverageWarning")
IDS = {"user": "user_id", "item": "item_id"}


@pytest.fixture(scope="module")
def texts():
    return encoded(reasoning=True)


@pytest.fixture(scope="module")
def rows():
    return training_rows(interactions(), history_length=3)


def llm_cf(texts, rows, **changes):
    return LLMCFAdaptor(texts, *rows, **IDS, **{"dim": 3, "hidden": 4, "pool": 6, **changes})


def affine(layer, x):
    return layer.weight.detach().numpy() @ x + (0 if layer.bias is None else layer.bias.detach().numpy())


def perceptron(layers, x):
    return affine(layers[2], np.maximum(affine(layers[0], x), 0))


class Loops:
    """The decoder for one place at a time, head by head."""

    def __init__(self, adaptor, texts):
        self.adaptor, self.texts = adaptor, texts

    def of(self, user, item):
        sides = (("user", user, self.adaptor.users), ("item", item, self.adaptor.items))
        return np.array(sum((vector(self.texts, kind, code, side.missing) for kind, code, side in sides), []))

    def said(self, e):
        told, base = self.texts.reasoning, self.adaptor.exemplars
        about = (told.users == int(base.user[e])) & (told.items == int(base.item[e]))
        return told.vectors[np.flatnonzero(about)[0]].astype(float)

    def exemplar(self, e):
        base = self.adaptor.exemplars
        label = self.adaptor.label.weight[int(base.label[e])].detach().numpy()
        return self.of(int(base.user[e]), int(base.item[e])), label

    def attended(self, own, seen):
        """What a place that looks for `own` gets from (exemplar, similarity) pairs."""
        d = len(own) // self.adaptor.heads
        context = np.zeros(len(own))
        for head in range(self.adaptor.heads):
            part = slice(head * d, (head + 1) * d)
            logits, values = [], []
            for e, similarity in seen:
                x, label = self.exemplar(e)
                key = affine(self.adaptor.key, x)
                value = affine(self.adaptor.value, x) + label + affine(self.adaptor.reasoning, self.said(e))
                logits.append(own[part] @ key[part] / math.sqrt(d) + self.adaptor.similarity_scale.item() * similarity)
                values.append(value[part])
            weights = np.exp(logits) / np.exp(logits).sum()
            for weight, value in zip(weights, values, strict=True):
                context[part] += weight * value
        return context

    def layer(self, own, context):
        hidden = own + affine(self.adaptor.after_attention, context)
        norm, first, _, second = self.adaptor.feed_forward
        scaled = (hidden - hidden.mean()) / math.sqrt(hidden.var() + norm.eps)
        scaled = scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        return hidden + affine(second, np.maximum(affine(first, scaled), 0))

    def found(self, row):
        found, similarity = self.adaptor._retrieve(USERS[row : row + 1], ITEMS[row : row + 1])
        pairs = zip(found[0].tolist(), similarity[0].tolist(), strict=True)
        return [(e, s) for e, s in pairs if s > -math.inf]


def test_two_heads_attend_each_with_its_half(texts, rows):
    adaptor = randomised(llm_cf(texts, rows, heads=2))
    loops, expected = Loops(adaptor, texts), []
    for row, (user, item) in enumerate(zip(USERS.tolist(), ITEMS.tolist(), strict=True)):
        own = affine(adaptor.query, loops.of(user, item))
        expected.append(affine(adaptor.output, loops.layer(own, loops.attended(own, loops.found(row)))))
    torch.testing.assert_close(adaptor(USERS, ITEMS).detach(), torch.tensor(np.array(expected)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_each", [2, 40])  # 40 are more than there are, so places stay empty
def test_the_reconstruction_is_one_minus_the_mean_cosine_at_the_exemplars(texts, rows, n_each):
    adaptor = randomised(llm_cf(texts, rows, heads=2, reconstruct=0.5, n_each=n_each))
    loops, cosines = Loops(adaptor, texts), []
    for row in range(len(USERS)):
        before = []
        for e, _ in loops.found(row):
            x, label = loops.exemplar(e)
            own = affine(adaptor.query, x) + label
            context = loops.attended(own, before) if before else np.zeros(len(own))
            guess, told = perceptron(adaptor.reconstruction, loops.layer(own, context)), loops.said(e)
            cosines.append(guess @ told / np.linalg.norm(guess) / np.linalg.norm(told))
            before.append((e, 0.0))
    loss, n_terms = adaptor.loss(USERS, ITEMS)
    assert n_terms == len(cosines)
    assert loss.item() == pytest.approx(1 - np.mean(cosines), rel=1e-6)


def test_what_is_to_be_reconstructed_is_not_looked_at(texts, rows):
    adaptor = randomised(llm_cf(texts, rows, reconstruct=1.0, n_each=1))
    found, similarity = adaptor._retrieve(USERS, ITEMS)
    last = adaptor.exemplars.reasoning.clone().requires_grad_()
    adaptor.exemplars.reasoning = last
    guesses = []
    adaptor.reconstruction.register_forward_hook(lambda module, inputs, output: guesses.append(output))
    adaptor.loss(USERS, ITEMS)
    guesses[0][0, 1].sum().backward()  # at the second exemplar of the first sample
    used = last.grad.abs().sum(dim=1).nonzero().squeeze(1).tolist()
    assert used == [int(found[0, 0])]  # the first one alone
    assert bool((similarity[0] > -torch.inf).all())


def test_without_reconstruction_all_weights_and_outputs_are_as_before(texts, rows):
    plain, told = llm_cf(texts, rows), llm_cf(texts, rows, reconstruct=1.0)
    assert plain.loss_weight == 0
    assert not hasattr(plain, "reconstruction")
    weights = dict(told.named_parameters())
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(weights.pop(name), weight, rtol=0, atol=0)
    assert {name.split(".")[0] for name in weights} == {"reconstruction"}
    torch.testing.assert_close(plain(USERS, ITEMS), told(USERS, ITEMS), rtol=0, atol=0)


def test_the_authors_settings(texts, rows):
    published = LLMCFAdaptor.as_published(texts, *rows, **IDS)
    assert (published.heads, published.exemplars.n_each, published.loss_weight) == (2, 2, 1.0)
    assert LLMCFAdaptor.as_published(texts, *rows, **IDS, reconstruct=0.1).loss_weight == 0.1
    kar = KARAdaptor.as_published(texts, own_experts=4)
    sizes = [(layer.in_features, layer.out_features) for layer in kar.shared[0] if hasattr(layer, "in_features")]
    assert sizes == [(texts.dim, 128), (128, 32)]
    assert (len(kar.shared), len(kar.user_side.own), len(kar.item_side.own)) == (2, 4, 4)
    assert kar.widths == {"kar_user": 32, "kar_item": 32}
    assert len(KARAdaptor.as_published(texts).user_side.own) == 2


def test_what_makes_no_sense_is_refused(texts, rows):
    for changes in ({"heads": 3}, {"heads": 0}, {"reconstruct": -1.0}, {"reconstruct": math.nan}):
        with pytest.raises(ConfigError, match="heads="):
            llm_cf(texts, rows, **changes)
    with pytest.raises(CoverageError, match="leave out reconstruct"):
        LLMCFAdaptor.as_published(encoded(), *rows, **IDS)


# -- on a model --------------------------------------------------------------------------------------------------------


def augmented(rows, texts, **changes):
    adaptor = llm_cf(texts, rows, **changes)
    return augment(model_of("deepfm", interactions(), adaptor), adaptor, **IDS)


def weights(model):
    return {**model.state_dict(), **model.augmentation.state()}


def test_a_step_minimises_the_librarys_loss_and_the_reconstruction(rows, texts):
    """One step of gradient descent, whose gradient is put together here."""
    rate = 0.01
    x = {name: column[:16] for name, column in rows[0].items()}
    y = rows[1][:16]
    plain, model = augmented(rows, texts), augmented(rows, texts, reconstruct=0.5)
    start = weights(model)
    for one in (plain, model):
        one.compile(torch.optim.SGD(one.parameters(), lr=rate), "binary_crossentropy")
        fit(one, (x, y), epochs=1)
    adaptor = llm_cf(texts, rows, reconstruct=0.5)
    loss, n_terms = adaptor.loss(*(torch.from_numpy(x[name].astype(np.int64)) for name in IDS.values()))
    loss.backward()
    extra = {name: parameter.grad for name, parameter in adaptor.named_parameters() if parameter.grad is not None}
    for name, weight in weights(model).items():
        expected = weights(plain).get(name, start[name]) - rate * 0.5 * 16 * extra.get(name, torch.zeros(()))
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6, msg=name)
    told = model.history.history
    assert told["sllmr_adaptor"] == [pytest.approx(loss.item(), rel=1e-5)]
    assert told["sllmr_adaptor_ids"] == [n_terms]
    assert "sllmr_adaptor" not in plain.history.history


def test_it_falls_and_copies_and_undoing_keep_the_rest(rows, texts):
    model = compiled(augmented(rows, texts, reconstruct=1.0))
    keys = set(model.state_dict())
    assert keys == set(model_of("deepfm", interactions(), llm_cf(texts, rows)).state_dict())
    fit(model, rows, epochs=4)
    losses = model.history.history["sllmr_adaptor"]
    assert losses[-1] < losses[0]
    twin = copy.deepcopy(model)
    fit(twin, rows, epochs=1)
    assert set(step_losses(twin)) == {"adaptor"}
    with pytest.raises(AugmentError, match="augmented already"):
        augment(model, llm_cf(texts, rows), **IDS)
    aligned = align(model, id_vectors(), **IDS)
    with pytest.raises(AugmentError, match=r"\(align\)"):
        unaugment(model)
    aligned.undo(model)
    plain = unaugment(model)
    assert type(plain).__name__ == "DeepFM"
    assert not step_losses(plain)
    assert not hasattr(plain, "augmentation")


@pytest.mark.filterwarnings("ignore::sllmr_plugin.errors.SLLMRWarning")
def test_beside_the_regularizer(rows, texts):
    model = augmented(rows, texts, reconstruct=1.0)
    model = wrap(model, score_frame(), config=SelectiveConfig(gate="none"), **IDS)
    fit(compiled(model), rows, epochs=1)
    assert {"sllmr_adaptor", "sllmr_loss"} <= set(model.history.history)
    assert set(step_losses(unwrap(model))) == {"adaptor"}
    assert type(unwrap(model)).__name__ == "DeepFM"


def test_a_comparison_takes_them_by_a_setting(texts, rows, tmp_path):
    data = interactions()
    compact, published = (
        Mode.of("kar").adaptor(data, rows, 0, texts=texts, published=which) for which in (False, True)
    )
    assert (compact.widths["kar_user"], published.widths["kar_user"]) == (16, 32)
    settings = RunSettings.quick(epochs=1, embedding_dim=4, batch_size=16, adaptors="published")
    scores = score_frame().astype({"user_id": int})
    scores["user_id"] = data.user_ids[scores["user_id"] - 1]
    scores["item_id"] = data.item_ids[scores["item_id"].astype(int) - 1]
    frame = pd.concat([text_frame(), reasoning_frame()])
    arguments = {"texts": frame, "modes": ["llm_cf"], "seeds": 1, "settings": settings, "verbose": False}
    found = compare(data, scores, out=tmp_path, **arguments)
    (run,) = found.runs
    assert 0 < run.epochs[0]["sllmr_adaptor"] < 2
