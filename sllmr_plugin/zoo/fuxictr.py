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
from ..datasets.attributes import ItemAttribute
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
    backbone: str = "deepfm",
    histories: bool = False,
    dataset_id: str = "sllmr",
) -> Any:
    """Write encoded rows as FuxiCTR keeps them, and return their feature map.

    Parameters
    ----------
    folder : str or Path
        Gets ``<dataset_id>/`` with ``feature_map.json``, ``feature_vocab.json`` (raw ids of `data`) and an
        ``.npz`` file a split, for ``RankDataLoader(..., data_format="npz")``.
    data : Interactions
        Gives the vocabularies of ids and attributes.
    splits : mapping of str to (mapping of str to numpy.ndarray, numpy.ndarray)
        Split name -> inputs and labels as `training_rows` gives them.
    backbone : str, default="deepfm"
        What will read them, as of `build_fuxictr`. DIN attends to the histories of the item and of attributes with one
        value, which are therefore written as they are; of other sequences the backbone reads the average
        (``feature_encoder`` is FuxiCTR's `MaskedAveragePooling`). Write ``din`` for a model of your own that pools
        histories itself.
    histories : bool, default=False
        Write the user's history of items and of all attributes, too. DIN always gets that of items.
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
    length = next(iter(splits.values()))[0]["hist_item_id"].shape[1]
    attends = _key(backbone) == "din"
    features = {"user_id": _categorical("user", len(users)), "item_id": _categorical("item", len(items))}
    past, vocabulary = {}, {"user_id": users, "item_id": items, "hist_item_id": items}
    if histories or attends:
        past["hist_item_id"] = _history("item_id", len(items), length, pooled=not attends)
    for name, attribute in data.attributes.items():
        features[name] = _of_item(attribute)
        if histories:
            pooled = not attends or attribute.has_several
            past[attribute.history] = _history(name, len(attribute.values), length * attribute.width, pooled=pooled)
        codes = {value: code for code, value in enumerate(attribute.values, start=1)}
        vocabulary |= {name: codes, attribute.history: codes}
    features |= past
    schema = {
        "dataset_id": dataset_id,
        "num_fields": len(features),
        "total_features": sum(spec["vocab_size"] for spec in features.values()),
        "labels": ["label"],
        "features": [{name: spec} for name, spec in features.items()],
    }
    (target / "feature_map.json").write_text(json.dumps(schema, indent=2), encoding="utf-8")
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


_POOLED = {"feature_encoder": "layers.MaskedAveragePooling()"}


def _of_item(attribute: ItemAttribute) -> dict[str, Any]:
    spec = _categorical("item", len(attribute.values))
    several = {"type": "sequence", "max_len": attribute.width, **_POOLED}
    return spec | several if attribute.has_several else spec


def _history(feature: str, n_ids: int, length: int, *, pooled: bool) -> dict[str, Any]:
    sequence = {"type": "sequence", "max_len": length, "share_embedding": feature}
    return _categorical("user", n_ids) | sequence | (_POOLED if pooled else {})


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
    key = _key(model)
    import_fuxictr()
    from . import fuxictr_models as models

    classes = {"deepfm": models.DeepFM, "dcnv2": models.DCNv2, "din": models.DIN}
    import_fuxictr("fuxictr.pytorch.torch_utils").seed_everything(seed)
    arguments = {**_DEFAULTS, "model_id": key, "model_root": str(model_root), **settings}
    built = classes[key](feature_map, **arguments)
    Path(built.model_dir).mkdir(parents=True, exist_ok=True)
    return built


def _key(backbone: str) -> str:
    if backbone.lower() not in FUXICTR_BACKBONES:
        raise BackboneError(f"unknown FuxiCTR backbone {backbone!r}. Valid names are {', '.join(FUXICTR_BACKBONES)}.")
    return backbone.lower()
