"""Backbones over FuxiCTR's layers by name, and the files that its models read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..backends.fuxictr.data import VOCABULARY_FILE
from ..datasets.interactions import Interactions
from ..errors import BackboneError, MissingLibraryError

FUXICTR_BACKBONES = ("deepfm", "dcnv2", "din")
"""Names that `build_fuxictr` knows."""

_DEFAULTS: dict[str, Any] = {
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "task": "binary_classification",
    "metrics": ["AUC", "logloss"],
    "verbose": 0,
}


def import_fuxictr(module: str = "fuxictr") -> Any:
    """Import FuxiCTR or a module of it.

    Raises
    ------
    MissingLibraryError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f"FuxiCTR cannot be imported ({error}). Run `pip install 'sllmr-plugin[fuxictr]'`."
        ) from error


def write_dataset(
    folder: str | Path,
    data: Interactions,
    splits: Mapping[str, tuple[Mapping[str, np.ndarray], np.ndarray]],
    *,
    history: bool = False,
    dataset_id: str = "sllmr",
) -> Any:
    """Write encoded rows as FuxiCTR keeps them, and return their feature map.

    Parameters
    ----------
    folder : str or Path
        Gets ``<dataset_id>/`` with ``feature_map.json``, ``feature_vocab.json`` (raw ids of `data`) and an
        ``.npz`` file a split, for ``RankDataLoader(..., data_format="npz")``.
    data : Interactions
        Gives the vocabularies.
    splits : mapping of str to (mapping of str to numpy.ndarray, numpy.ndarray)
        Split name -> inputs and labels as `training_rows` gives them.
    history : bool, default=False
        Write ``hist_item_id``, too, as the sequence that DIN reads.
    dataset_id : str, default="sllmr"
        Name of the data set.

    Returns
    -------
    fuxictr.features.FeatureMap
        With `data_dir`, where the files are.
    """
    feature_map_class = import_fuxictr("fuxictr.features").FeatureMap
    target = Path(folder) / dataset_id
    target.mkdir(parents=True, exist_ok=True)
    users = {str(raw): code for raw, code in data.user_index.items()}
    items = {str(raw): code for raw, code in data.item_index.items()}
    features = {"user_id": _categorical("user", len(users)), "item_id": _categorical("item", len(items))}
    if history:
        length = next(iter(splits.values()))[0]["hist_item_id"].shape[1]
        sequence = {"type": "sequence", "max_len": length, "share_embedding": "item_id"}
        features["hist_item_id"] = _categorical("user", len(items)) | sequence
    schema = {
        "dataset_id": dataset_id,
        "num_fields": len(features),
        "total_features": sum(spec["vocab_size"] for spec in features.values()),
        "labels": ["label"],
        "features": [{name: spec} for name, spec in features.items()],
    }
    (target / "feature_map.json").write_text(json.dumps(schema, indent=2), encoding="utf-8")
    vocabulary = {"user_id": users, "item_id": items, "hist_item_id": items}
    known = {name: {"__PAD__": 0, **vocabulary[name], "__OOV__": len(vocabulary[name]) + 1} for name in features}
    (target / VOCABULARY_FILE).write_text(json.dumps(known), encoding="utf-8")
    for split, (x, y) in splits.items():
        columns: dict[str, Any] = {**{name: x[name] for name in features}, "label": y}
        np.savez(target / f"{split}.npz", **columns)
    feature_map = feature_map_class(dataset_id, str(target))
    feature_map.load(str(target / "feature_map.json"), {})
    return feature_map


def _categorical(source: str, n_ids: int) -> dict[str, Any]:
    # Code 0 pads and the last one stands for ids that are not in the vocabulary, as FuxiCTR has it.
    return {"source": source, "type": "categorical", "padding_idx": 0, "vocab_size": n_ids + 2}


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the constructor arguments of a backbone from a file such as ``model_zoo_configs/fuxictr/din.yaml``."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BackboneError(f"{path} cannot be read ({error}). Give a file of `argument: value` lines.") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), str):
        raise BackboneError(f"{path} names no model. Add `model:` and one of {', '.join(FUXICTR_BACKBONES)}.")
    return settings


def build_fuxictr(model: str, feature_map: Any, *, model_root: str | Path, seed: int = 2024, **settings: Any) -> Any:
    """Build an untrained FuxiCTR model, ready for `fit`.

    Parameters
    ----------
    model : str
        One of `FUXICTR_BACKBONES`, in any case.
    feature_map : fuxictr.features.FeatureMap
        Of the data set.
    model_root : str or Path
        Folder for the checkpoint that FuxiCTR writes in every `fit` and reloads at its end.
    seed : int, default=2024
        Seed of the initial weights; also resets the global random numbers, as FuxiCTR's scripts do.
    **settings
        Arguments of the model and of FuxiCTR's `BaseModel`.

    Returns
    -------
    fuxictr.pytorch.models.BaseModel

    Raises
    ------
    BackboneError
        If the name is unknown.
    MissingLibraryError
        If FuxiCTR is not installed.
    """
    if model.lower() not in FUXICTR_BACKBONES:
        raise BackboneError(f"unknown FuxiCTR backbone {model!r}. Valid names are {', '.join(FUXICTR_BACKBONES)}.")
    import_fuxictr()
    from . import fuxictr_models as models

    classes = {"deepfm": models.DeepFM, "dcnv2": models.DCNv2, "din": models.DIN}
    import_fuxictr("fuxictr.pytorch.torch_utils").seed_everything(seed)
    arguments = {**_DEFAULTS, "model_id": model.lower(), "model_root": str(model_root), **settings}
    built = classes[model.lower()](feature_map, **arguments)
    Path(built.model_dir).mkdir(parents=True, exist_ok=True)
    return built
