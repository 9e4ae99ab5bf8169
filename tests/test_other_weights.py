"""Calls with other weights leave a model's own in place, also where it shares modules or parameters."""

import torch
from torch import nn

from sllmr_plugin.backends.forward import call_with


class Shares(nn.Module):
    """One embedding under two names, one parameter in two modules, a buffer and a GRU with flattened weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        embedding = nn.Embedding(5, 4)
        self.features = nn.ModuleDict({"item": embedding, "history": embedding})
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        history, _ = self.gru(self.features["history"](x))
        return (self.second(self.first(self.features["item"](x))) + history) * self.scale


def test_shared_weights_are_replaced_for_the_call_only():
    model, x = Shares(), torch.tensor([[0, 3], [1, 2]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = {name: type(tensor) for name, tensor in model.named_parameters()}
    other = {name: tensor + 0.3 for name, tensor in model.state_dict().items()}
    loaded = Shares()
    loaded.load_state_dict(other)
    for names in (other, {name: other[name] for name, _ in (*model.named_parameters(), *model.named_buffers())}):
        torch.testing.assert_close(call_with(model, names, x), loaded(x))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert {name: type(tensor) for name, tensor in model.named_parameters()} == kinds
        torch.testing.assert_close(model(x), Shares()(x))


def test_gradients_reach_the_other_weights():
    model, x = Shares(), torch.tensor([[0, 3]])
    weight = torch.full((4, 4), 0.5, requires_grad=True)
    call_with(model, {"first.weight": weight}, x).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    assert model.first.weight.grad is None
