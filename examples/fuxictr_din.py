"""FuxiCTR's training loop, plain and with the LLM's scores: two lines more.

Without arguments it runs on the bundled demo data, whose scores are simulated. On your own:
``python examples/fuxictr_din.py --interactions clicks.csv --items items.csv --scores llm_scores.parquet``.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader

from sllmr_plugin import wrap
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.datasets.features import held_out_rows, training_rows
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.evaluation.ranking import full_ranking, summarize
from sllmr_plugin.zoo.fuxictr import build_fuxictr, read_settings, write_dataset

demo = demo_paths()
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--interactions", type=Path, default=demo.interactions)
parser.add_argument("--items", type=Path, default=demo.items)
parser.add_argument("--scores", type=Path, default=demo.scores)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--rank-items", type=int, default=100, help="items each test interaction is ranked against")
parser.add_argument("--rank-users", type=int, help="test users that are ranked, drawn; default: all")
arguments = parser.parse_args()

data = load_interactions(arguments.interactions, arguments.items)
folder = Path(tempfile.mkdtemp())
# Stands in for FuxiCTR's build_dataset: feature_map.json, feature_vocab.json (raw ids -> codes) and a file a split.
feature_map = write_dataset(
    folder, data, {"train": training_rows(data), "valid": held_out_rows(data, "valid")}, backbone="din"
)
settings = read_settings(Path(__file__).parent.parent / "model_zoo_configs" / "fuxictr" / "din.yaml")

for with_llm in (False, True):
    model = build_fuxictr(feature_map=feature_map, model_root=folder / f"checkpoints_{with_llm}", **settings)
    if with_llm:
        # Raw ids of the score table are looked up in FuxiCTR's vocabulary; the history stays the user's.
        model = wrap(model, arguments.scores, user="user_id", item="item_id")
    train, valid = (
        NpzDataLoader(
            feature_map, f"{feature_map.data_dir}/{split}.npz", batch_size=256, shuffle=shuffle, num_workers=0
        )
        for split, shuffle in (("train", True), ("valid", False))
    )
    torch.manual_seed(0)  # both see the same batches
    model.fit(train, epochs=arguments.epochs, validation_data=valid)
    ranked = full_ranking(model, data, users=arguments.rank_users, n_items=arguments.rank_items, verbose=False)
    figures = summarize(ranked)
    name = "with the LLM" if with_llm else "plain"
    print(
        f"{name}: AUC {figures['auc']:.4f}, cold users {figures['auc_cold']:.4f}, tail items {figures['auc_tail']:.4f}"
    )
print(model.sllmr.status())
