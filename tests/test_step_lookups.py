"""What a step has looked up is what losses of the same ids read: values, gradients, and where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sllmr_plugin.backends.embeddings import KnownIds, StepLookups

N_CODES, DIM = 9, 4


def watched(table, *calls, most=20):
    """Look ids up while they are watched."""
    lookups = StepLookups([table])
    lookups.clear(most)
    with lookups.watching():
        outputs = [table(torch.tensor(ids)) for ids in calls]
    return lookups, outputs


@pytest.mark.parametrize("calls", [([3, 1, 3, 5],), ([[3], [1], [3], [5]],), ([3, 1], [[5], [3]])])
def test_rows_and_gradients_are_those_of_a_look_up_of_ones_own(calls):
    torch.manual_seed(0)
    table = nn.Embedding(N_CODES, DIM, padding_idx=0)
    known = KnownIds("item_id", np.array([1, 3, 4, 5]), np.zeros((4, 2)), N_CODES)
    rows, factors = torch.tensor([0, 1, 3]), torch.randn(3, DIM)
    (known.look_up(rows, table) * factors).sum().backward()
    own, table.weight.grad = table.weight.grad.clone(), None
    lookups, _ = watched(table, *calls)
    found = known.look_up(rows, table, lookups)
    assert torch.equal(found, table.weight[[1, 3, 5]])
    assert lookups.find(torch.tensor([1, 3, 5]), table) is not None
    (found * factors).sum().backward()
    torch.testing.assert_close(table.weight.grad, own)


def test_another_table_an_id_not_asked_for_a_long_history_and_a_changed_output_are_looked_up():
    table, other = nn.Embedding(N_CODES, DIM), nn.Embedding(N_CODES, DIM)
    codes = torch.tensor([1, 3])
    lookups, (output,) = watched(table, [3, 1, 5])
    assert lookups.find(codes, table) is not None
    assert lookups.find(codes, other) is None
    assert lookups.find(torch.tensor([1, 4]), table) is None
    output.mul_(2)
    assert lookups.find(codes, table) is None
    known = KnownIds("item_id", codes.numpy(), np.zeros((2, 2)), N_CODES)
    assert torch.equal(known.look_up(torch.tensor([0, 1]), table, lookups), table.weight[codes])
    lookups, _ = watched(table, [3, 1, 5], most=2)
    assert lookups.find(codes, table) is None
    lookups, _ = watched(table, [3, 1, 5])
    lookups.clear()
    assert lookups.find(codes, table) is None
    with torch.no_grad():
        lookups, _ = watched(table, [3, 1, 5])
    assert lookups.find(codes, table) is None
