"""Whether extra rows may go through the batch's own pass is found out by trying it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sllmr_plugin.backends.base import dropouts
from sllmr_plugin.backends.first_rows import dropout_of_first
from sllmr_plugin.backends.fuxictr.checks import is_row_wise


class Model(nn.Module):
    """A tower with batch normalisation and dropout; `change` is what a model makes of the logits."""

    def __init__(self, change=lambda logit, x: logit, dropout=None):
        super().__init__()
        dropout = dropout or nn.Dropout(0.5)
        self.tower = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), dropout, nn.Linear(8, 1))
        nn.init.normal_(self.tower[0].weight, std=1e-6)  # as close to nothing as fresh embeddings are
        self.activation = nn.Sigmoid()
        self.change = change

    def forward(self, x):
        return {"y_pred": self.activation(self.change(self.tower(x), x))}


class Attention(nn.Module):
    """Several rows for each input row, those of one input row together or, folded the other way, apart."""

    def __init__(self, together):
        super().__init__()
        self.together = together
        self.scorer = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, x):
        steps = x[:, :, None] if self.together else x.T[:, :, None]  # (n, 3, 1) or (3, n, 1)
        scores = self.scorer(steps.reshape(-1, 1)).reshape(steps.shape[:2])
        return {"y_pred": (scores if self.together else scores.T).mean(dim=1, keepdim=True)}


class Fixed(nn.Module):
    """Keeps masks, positions and lookup tables as FuxiCTR's zoo does, as parameters and buffers that nothing trains."""

    def __init__(self, centred=False):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3), 1e-6))
        self.mask = nn.Parameter(torch.ones(3, 3).triu(1).bool(), requires_grad=False)
        self.index = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.powers = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]), requires_grad=False)  # whole numbers, kept as floats
        self.register_buffer("positions", torch.arange(3))
        self.register_buffer("keep", torch.tensor([True, False, True]))
        self.table = nn.Embedding.from_pretrained(torch.tensor([0.0, 9, 9, 1, 2])[:, None])  # frozen: codes of codes
        self.counts = nn.Embedding.from_pretrained(torch.tensor([0, 9, 9, 1, 2])[:, None])
        self.register_buffer("used", torch.tensor([0, 3, 4]))
        self.centred = centred

    def forward(self, x):
        products = (x[:, :, None] * x[:, None, :]).masked_select(self.mask).view(len(x), 3)
        picked = products.index_select(1, self.index)[:, self.powers.long()][:, self.positions]
        codes = self.table(self.used).long().squeeze(1)
        assert codes.tolist() == self.counts(self.used).squeeze(1).tolist() == [0, 1, 2]
        hidden = (picked @ self.weight)[:, codes]
        logit = hidden[:, self.keep].sum(dim=1, keepdim=True)
        logit = logit - logit.mean() if self.centred else logit
        return {"y_pred": logit.sigmoid(), "positive": x > 0, "codes": (3 * x).long(), "neg_emb": None}


class FewRows(Model):
    """Takes four rows at most."""

    def forward(self, x):
        if len(x) > 4:
            raise ValueError("too many rows")
        return super().forward(x)


class Beside(Model):
    """Gives something beside the prediction."""

    def __init__(self, beside):
        super().__init__()
        self.beside = beside

    def forward(self, x):
        return super().forward(x) | {"beside": self.beside(x)}


class NeedsPositive(Model):
    """Cannot run where no row's first value is positive, as a DIEN cannot where no row has a history."""

    def forward(self, x):
        if not (x[:, 0] > 0).any():
            raise RuntimeError("Cannot pack empty tensors.")
        return super().forward(x)


ROWS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(Model(), True, id="norm and dropout"),
        pytest.param(Model(dropout=nn.Dropout(0.0)), True, id="no dropout"),
        pytest.param(Fixed(), True, id="masks and indexes as parameters"),
        pytest.param(Fixed(centred=True), False, id="masks and indexes, centred"),
        pytest.param(Attention(together=True), True, id="attention"),
        pytest.param(Attention(together=False), False, id="attention folded the other way"),
        pytest.param(Model(lambda logit, x: logit - logit.mean()), False, id="centred"),
        pytest.param(Model(lambda logit, x: logit * x.std()), False, id="scaled"),
        pytest.param(Model(lambda logit, x: logit + torch.randn(1)), False, id="noise"),
        pytest.param(Model(lambda logit, x: F.dropout(logit, 0.5, training=True)), False, id="functional dropout"),
        pytest.param(Model(dropout=nn.AlphaDropout(0.5)), False, id="another dropout"),
        pytest.param(Model(lambda logit, x: logit[: len(logit) // 2]), False, id="fewer rows"),
        pytest.param(FewRows(), False, id="fails on the rows together"),
        pytest.param(Beside(lambda x: x[:1] > 0), False, id="a mask of the first row"),
        pytest.param(Beside(lambda x: x[:, 0].argsort().argsort()), False, id="ranks among the rows"),
        pytest.param(Beside(lambda x: None if len(x) > 4 else x), False, id="an output that comes and goes"),
    ],
)
def test_models_are_told_apart_and_left_as_they_were(model, expected):
    state, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert is_row_wise(model, lambda rows: rows, ROWS, 4, getattr(model, "activation", None)) is expected
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_saturated_probability_hides_nothing_where_the_logit_is_seen():
    model = Model(lambda logit, x: 40 + logit - logit.mean())
    assert is_row_wise(model, lambda rows: rows, ROWS, 4)
    assert not is_row_wise(model, lambda rows: rows, ROWS, 4, model.activation)


def test_rows_that_the_model_cannot_run_on_alone_may_come_behind_others():
    some = ROWS[ROWS[:, 0].argsort(descending=True)]
    assert (some[:, 0] > 0).tolist() == [True] * 2 + [False] * 6
    assert is_row_wise(NeedsPositive(), lambda rows: rows, some, 2)
    model = NeedsPositive()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="empty tensors"):
        is_row_wise(model, lambda rows: rows, some.flip(0), 4)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 400), nn.Dropout(0.25), nn.Linear(400, 400), nn.Dropout(0.5))


def test_the_batchs_dropout_and_the_numbers_after_it_are_those_of_a_pass_without_the_rest():
    alone, shared = network(), network()
    torch.manual_seed(7)
    expected, after = alone(ROWS[:5]), torch.rand(3)
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(1)
    with dropout_of_first(dropouts(shared), 5, 8, lambda device: generator):
        output = shared(ROWS)
    torch.testing.assert_close(output[:5], expected)
    assert torch.equal(torch.rand(3), after)
    dropped = (output[5:] == 0).float().mean()
    assert 0.44 < dropped < 0.56  # 1,200 values at a rate of one half
    assert shared[3]._forward_hooks == shared[3]._forward_pre_hooks == {}


def test_the_rest_keeps_its_mean_and_a_dropout_without_rows_is_left_alone():
    drop = nn.Dropout(0.25)
    x = torch.ones(10, 5000)
    with dropout_of_first([drop], 4, 10, lambda device: torch.Generator().manual_seed(3)):
        assert abs(drop(x)[4:].mean() - 1) < 0.02
        weights = drop(torch.ones(7, 2))
    assert weights.shape == (7, 2)
    drop.eval()
    with dropout_of_first([drop], 4, 10, lambda device: torch.Generator()):
        assert torch.equal(drop(x), x)
