"""RecLM: profiles as inputs of a DeepFM, an item that training has not seen, and what to serve."""

import numpy as np
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

from sllmr_plugin import RecLMAdaptor, TextTable, augment, dense_columns, serving_table, unaugment
from sllmr_plugin.datasets.demo import demo_paths, load_demo
from sllmr_plugin.datasets.features import training_rows

data, _ = load_demo()  # the demo's texts are simulated: no language model wrote them, and they stand for profiles
texts = TextTable.read(demo_paths().texts, user_index=data.user_index, item_index=data.item_index)
print(texts.coverage)

x, y = training_rows(data, seed=0)
x = {name: x[name] for name in ("user_id", "item_id")}
new = int(data.popularity.argmax())  # as if nobody had taken it yet
kept = x["item_id"] != new
x, y = {name: column[kept] for name, column in x.items()}, y[kept]

adaptor = RecLMAdaptor(texts, x, y, user="user_id", item="item_id")
columns = [SparseFeat("user_id", data.n_users + 1, 16), SparseFeat("item_id", data.n_items + 1, 16)]
columns += dense_columns(adaptor)
model = augment(DeepFM(columns, columns), adaptor, user="user_id", item="item_id")
model.compile("adam", "binary_crossentropy")
model.fit(dict(x), y, batch_size=256, epochs=1, verbose=0)

users = np.arange(1, 6)
pairs = {"user_id": users, "item_id": np.full(5, new)}
expected = model.predict(dict(pairs)).ravel()
print("predictions of the new item, by its texts:", expected.round(3))

# Serving: one table of items, one of users, and an ordinary DeepFM that reads them as dense inputs.
items = serving_table(model, "item_id", data.item_index)
profiles = serving_table(model, "user_id", data.user_index)
plain = unaugment(model)
of_item, of_users = items.iloc[new - 1], np.stack(profiles["reclm_user"].iloc[users - 1])
inputs = {
    "user_id": users,
    "item_id": np.full(5, of_item["item_id_code"]),
    "reclm_user": of_users,
    "reclm_item": np.tile(of_item["reclm_item"], (5, 1)),
}
print("item code for the plain model:", of_item["item_id_code"])
print("predicts the same:", np.allclose(plain.predict(inputs).ravel(), expected, atol=1e-6))
