"""Your own score table: write it, look at its coverage, train, keep the settings, give the plain model back."""

import tempfile
from pathlib import Path

import pandas as pd
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DCN

from sllmr_plugin import ScoreTable, SelectiveConfig, unwrap, wrap
from sllmr_plugin.datasets.demo import load_demo
from sllmr_plugin.datasets.features import training_rows

data, demo_scores = load_demo()
folder = Path(tempfile.mkdtemp())

# Whatever you ask your LLM, the result is a row a pair. Here: the demo's simulated scores on a scale of 0 to 10,
# with a pair that came back empty and one of a user who is gone.
answers = demo_scores[["user_id", "item_id", "kind"]].assign(stars=(demo_scores["score"] * 10).round(1))
answers.loc[answers.index[0], "stars"] = None
gone = pd.DataFrame(
    {"user_id": ["gone"], "item_id": answers["item_id"].iloc[:1], "stars": [5.0], "kind": ["candidate"]}
)
table = pd.concat([answers.astype({"user_id": object}), gone], ignore_index=True)
table["score"] = table["stars"] / 10
table.astype({"user_id": str, "item_id": str}).to_parquet(folder / "llm_scores.parquet")

# Ids went into the file as text, so the keys of the indexes are text as well.
user_index = {str(raw): code for raw, code in data.user_index.items()}
item_index = {str(raw): code for raw, code in data.item_index.items()}
scores = ScoreTable.read(folder / "llm_scores.parquet", user_index=user_index, item_index=item_index)
print(scores.coverage)

x, y = training_rows(data, seed=0)
columns = [SparseFeat("user_id", data.n_users + 1, 16), SparseFeat("item_id", data.n_items + 1, 16)]
model = DCN(columns, columns, cross_parameterization="matrix")
model = wrap(model, scores, user="user_id", item="item_id", config=SelectiveConfig(weight=0.2, warmup_epochs=1))
model.compile("adam", "binary_crossentropy", metrics=["auc"])
model.fit({name: x[name] for name in model.feature_index}, y, batch_size=256, epochs=3, verbose=2)
print(model.sllmr.status())

model.sllmr.save(folder / "sllmr")  # settings and gate, to go on training another day
torch.save(unwrap(model).state_dict(), folder / "model.pt")  # what serving needs: the plain model's weights
print("files:", sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")))
