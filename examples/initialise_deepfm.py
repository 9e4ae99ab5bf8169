"""Embeddings that start from the items' titles, and LLM scores on top: three lines more than deepfm_plain.py."""

import numpy as np
import pandas as pd
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin import initialise, wrap
from sllmr_plugin.datasets.demo import demo_paths

paths = demo_paths()  # stands in for your own files
clicks = pd.read_csv(paths.interactions)
titles = pd.read_csv(paths.items)

users = LabelEncoder().fit(clicks["user_id"])
items = LabelEncoder().fit(titles["item_id"])


def rows(part, seed):
    """Return inputs and labels of a split: its positives, and as many random items."""
    positives = clicks[clicks["split"] == part]
    user = users.transform(positives["user_id"])
    item = items.transform(positives["item_id"])
    random_item = np.random.default_rng(seed).integers(0, len(titles), len(item))
    x = {"user_id": np.concatenate([user, user]), "item_id": np.concatenate([item, random_item])}
    return x, np.concatenate([np.ones(len(item)), np.zeros(len(item))])


columns = [SparseFeat("user_id", len(users.classes_), 16), SparseFeat("item_id", len(titles), 16)]
ids = {"user": "user_id", "item": "item_id", "user_index": users, "item_index": items}
x, y = rows("train", seed=0)
model = DeepFM(columns, columns, dnn_dropout=0.1)
print(initialise(model, paths.items, x=x, y=y, **ids))
model = wrap(model, paths.scores, **ids)
model.compile("adam", "binary_crossentropy", metrics=["auc"])
model.fit(x, y, batch_size=256, epochs=3, verbose=2)
print("test:", model.evaluate(*rows("test", seed=1)))
