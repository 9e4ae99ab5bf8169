"""CURec: reasons of other users as an input of a DeepFM, and which of them spoke for a user's items."""

import tempfile
from pathlib import Path

import numpy as np
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

from sllmr_plugin import CURecAdaptor, TextTable, augment, dense_columns, explain, write_texts
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.features import training_rows

data, _ = load_demo()
index = {"user_index": data.user_index, "item_index": data.item_index}
with tempfile.TemporaryDirectory() as folder:
    # writer="titles" needs no language model: it puts titles in the place of patterns and reasons.
    path = Path(folder) / "reasons.parquet"
    files = demo_paths().interactions, demo_paths().items
    print(write_texts(*files, out=path, kind=("pattern", "reason"), writer="titles", verbose=False))
    texts = TextTable.read(path, **index)

x, y = training_rows(data, seed=0)
x = {name: x[name] for name in ("user_id", "item_id")}
adaptor = CURecAdaptor(texts, x, y, user="user_id", item="item_id")
columns = [SparseFeat("user_id", data.n_users + 1, 16), SparseFeat("item_id", data.n_items + 1, 16)]
columns += dense_columns(adaptor)
model = augment(DeepFM(columns, columns), adaptor, user="user_id", item="item_id")
model.compile("adam", "binary_crossentropy")
model.fit(x, y, batch_size=256, epochs=1, verbose=0)

# The items of the highest score of one user, and the two reasons of each that the user's pattern attends to most.
user = 1
items = np.arange(1, data.n_items + 1)
scores = model.predict({"user_id": np.full_like(items, user), "item_id": items})
for place in scores[:, 0].argsort()[::-1][:3]:
    item = data.item_ids[place]
    print(explain(model, data.user_ids[user - 1], item, k=2, title=data.titles.iloc[place], **index))
