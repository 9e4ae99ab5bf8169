"""DeepFM with the LLM's scores, trained by several processes.

    torchrun --standalone --nproc_per_node 2 examples/torchrun_deepfm.py

Beside deepfm_with_llm.py there is a call that joins the processes, and files are left to the first one. On GPUs the
backend is "nccl" and every process builds its model with ``device=f"cuda:{rank}"``. Started with plain python, it
trains in one process; docs/scale_processes.md says how far the two agree.
"""

import os

import numpy as np
import pandas as pd
import torch.distributed as dist
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM
from sklearn.preprocessing import LabelEncoder

from sllmr_plugin import wrap
from sllmr_plugin.datasets.demo import demo_paths

together = "WORLD_SIZE" in os.environ  # torchrun sets it
if together:
    dist.init_process_group("gloo")

paths = demo_paths()  # stands in for your own files
clicks = pd.read_csv(paths.interactions)
titles = pd.read_csv(paths.items)

users = LabelEncoder().fit(clicks["user_id"])
items = LabelEncoder().fit(titles["item_id"])


def rows(part, seed):
    """Return inputs and labels of a split: its positives, and as many random items. The same in every process."""
    positives = clicks[clicks["split"] == part]
    user = users.transform(positives["user_id"])
    item = items.transform(positives["item_id"])
    random_item = np.random.default_rng(seed).integers(0, len(titles), len(item))
    x = {"user_id": np.concatenate([user, user]), "item_id": np.concatenate([item, random_item])}
    return x, np.concatenate([np.ones(len(item)), np.zeros(len(item))])


columns = [SparseFeat("user_id", len(users.classes_), 16), SparseFeat("item_id", len(titles), 16)]
model = DeepFM(columns, columns)
model = wrap(model, paths.scores, user="user_id", item="item_id", user_index=users, item_index=items)
model.compile("adam", "binary_crossentropy", metrics=["auc"])
x, y = rows("train", seed=0)
model.fit(x, y, batch_size=256, epochs=3, verbose=2)  # 256 rows of all processes together

if not together or dist.get_rank() == 0:
    print("test:", model.evaluate(*rows("test", seed=1)))
    # torch.save(model.state_dict(), "deepfm.pt") would stand here too: all have the same weights, one file is enough.
if together:
    dist.barrier()  # a process that leaves while another is at work takes their connection down
    dist.destroy_process_group()
