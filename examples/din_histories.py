"""DIN with behaviour histories: only the candidate changes, the history stays the user's.

``item_features`` need not be given: for DIN, wrap takes the item and every feature that the history is compared with.
"""

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DIN

from sllmr_plugin import SelectiveConfig, wrap
from sllmr_plugin.datasets.demo import load_demo
from sllmr_plugin.datasets.features import training_rows

HISTORY = 10
data, scores = load_demo()
x, y = training_rows(data, history_length=HISTORY, seed=0)

columns = [
    SparseFeat("user_id", data.n_users + 1, 16),
    SparseFeat("item_id", data.n_items + 1, 16),
    # code 0 pads the history, so codes of items start at 1
    VarLenSparseFeat(
        SparseFeat("hist_item_id", data.n_items + 1, 16, embedding_name="item_id"),
        maxlen=HISTORY,
        length_name="seq_length",
    ),
]
model = DIN(columns, ["item_id"], dnn_dropout=0.1)
model = wrap(
    model,
    scores,
    user="user_id",
    item="item_id",
    user_index=data.user_index,
    item_index=data.item_index,
    config=SelectiveConfig(uncertainty="mc_dropout", mc_samples=4),
)
model.compile("adam", "binary_crossentropy", metrics=["auc"])
model.fit(x, y, batch_size=256, epochs=2, verbose=2)
print(model.sllmr.status())
