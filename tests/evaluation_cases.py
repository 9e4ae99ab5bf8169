"""Small random interactions and a model that is a matrix of scores, for the tests of the evaluation."""

import math

import numpy as np
import pandas as pd
import torch

from sllmr_plugin.evaluation.run import RunResult

N_USERS, N_ITEMS = 24, 20


def interactions(seed=0, negatives=False):
    """Random interactions of raw ids; users differ in history length and have one to three test items."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(N_USERS):
        n_train, n_test = 1 + user % 6, 1 + user % 3
        items = rng.permutation(N_ITEMS)[: n_train + 1 + n_test]
        splits = ["train"] * n_train + ["valid"] + ["test"] * n_test
        rows += [
            (f"u{user:02d}", f"i{item:02d}", k, s, 1) for k, (item, s) in enumerate(zip(items, splits, strict=True))
        ]
        if negatives:
            left = np.setdiff1d(np.arange(N_ITEMS), items)
            rows.append((f"u{user:02d}", f"i{left[0]:02d}", 0, "train", 0))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position", "split", "label"])


def catalogue():
    return pd.DataFrame({"item_id": [f"i{item:02d}" for item in range(N_ITEMS)]})


class TableModel(torch.nn.Module):
    """Looks its scores up in a (n_users + 1, n_items + 1) matrix."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.as_tensor(np.asarray(values), dtype=torch.float32))
        self.feature_index = {"item_id": (0, 1), "user_id": (1, 2)}

    def forward(self, X):
        return self.values[X[:, 1].long(), X[:, 0].long()].unsqueeze(1)


def ranking(aucs=(0.5, 0.7, 0.2), cold=(True, False, False), tail=(False, False, True)):
    """A ranking of as many users as there are AUCs, as `RunResult.ranking` has it."""
    names = [f"u{k}" for k in range(len(aucs))]
    frame = pd.DataFrame({"user_id": names, "item_id": "i", "auc": np.array(aucs, dtype=float)})
    return frame.assign(cold=list(cold), tail=list(tail))


def result(mode="none", seed=0, auc=0.5, backbone="deepfm", **changes):
    """A finished run."""
    values = {"backbone": backbone, "mode": mode, "seed": seed, "auc": auc, "auc_cold": auc - 0.1}
    values |= {"auc_tail": math.nan, "n_test": 10, "n_cold": 4, "n_tail": 0}
    values |= {"epoch": 2, "seconds": 1.5, "gate": None, "ranking": ranking()}
    return RunResult(**{**values, **changes})
