"""Synthetic interactions for long-tail items, from a student of the LLM: judged, filtered, trained on."""

import tempfile
from pathlib import Path

from sllmr_plugin import (
    Interest,
    SyntheticInteractions,
    compare,
    extend_scores,
    load_interactions,
    pairs_to_judge,
    synthesize_interactions,
)
from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.evaluation import Refinement, RunSettings

paths, folder = demo_paths(), Path(tempfile.mkdtemp())
files = paths.scores, paths.interactions, paths.items
data = load_interactions(paths.interactions, paths.items)

# Generator: users whom the student of the LLM's scores (here simulated) puts highest for long-tail items. With a
# server, leave out from_scores: a language model then chooses from lists of users with near histories.
student = {"folds": 2, "rank_users": 50, "verbose": False, "write_anyway": True}  # few of each: it is only shown here
extend_scores(*files, items_per_user=60, out=folder / "extended.parquet", **student)
made = synthesize_interactions(
    paths.interactions, paths.items, from_scores=folder / "extended.parquet", out=folder / "synthetic.parquet"
)
print(made)

# Discriminator: P(interest) of these, of the training interactions, of probes and of random candidates. With a server:
# sllmr score --answer yes_no.
synthetic = SyntheticInteractions.of(folder / "synthetic.parquet", data)
pairs = pairs_to_judge(data, synthetic=synthetic)
extend_scores(*files, pairs=pairs, out=folder / "interest.parquet", **student)
interest = Interest.of(folder / "interest.parquet", data, synthetic=synthetic)
print(interest)
print(f"kept {len(interest.filtered(data, synthetic))} of {len(synthetic)} synthetic rows")
print(f"doubted {len(interest.doubted(data))} of {len(data.train)} training rows")

comparison = compare(
    data,
    paths.scores,
    out=folder / "runs",
    modes=("none", "synthetic", "refined"),
    seeds=1,
    settings=RunSettings.quick(epochs=1, valid_users=100, test_users=500),
    refinement=Refinement.read(data, synthetic=synthetic, interest=interest),
    verbose=False,
)
print(comparison)
