"""A model with reasons as inputs, trained once and kept in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from ..backends.augment import augment
from ..config import SelectiveConfig
from ..datasets.interactions import Interactions
from ..errors import ConfigError, RunFolderError
from ..knowledge import EncodedTexts
from ..scores.table import ScoreTable
from ..zoo.deepctr import build_model
from .compare import describe_texts, everything_else
from .modes import Mode
from .store import changes, digest, read_json, write_json
from .training import RunSettings, train

MODE = "curec"
_WEIGHTS, _SETTINGS = "model.safetensors", "model.json"


def kept_training(folder: str | Path) -> dict[str, Any]:
    """Return how the model that a folder keeps was trained: ``backbone``, ``settings`` and ``seed`` of `kept_model`.

    Raises
    ------
    RunFolderError
        If the folder keeps no model, or one of another version of this package.
    """
    file = Path(folder) / _SETTINGS
    if not file.exists():
        raise RunFolderError(
            f"{folder} keeps no model ({_SETTINGS} is missing). Train one: sllmr explain ... --out {folder}."
        )
    told = read_json(file)
    try:
        settings = RunSettings(**{field.name: told[field.name] for field in fields(RunSettings)})
        return {"backbone": told["backbone"], "settings": settings, "seed": told["seed"]}
    except (KeyError, TypeError, ConfigError) as error:
        raise RunFolderError(
            f"{file} does not say how its model was trained ({error}). Train one with this version, in another folder."
        ) from None


def kept_fingerprint(folder: str | Path) -> str:
    """Return a fingerprint of the weights that a folder keeps."""
    files = (_WEIGHTS, "adaptor.safetensors")
    return digest(*(np.fromfile(Path(folder) / name, dtype=np.uint8) for name in files))


def kept_model(
    folder: str | Path,
    data: Interactions,
    texts: EncodedTexts,
    *,
    backbone: str,
    settings: RunSettings,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, auc: None,
) -> Any:
    """Return the model that a folder keeps, or train it in mode ``curec`` and keep it there.

    Parameters
    ----------
    folder : path
        Gets ``model.safetensors`` and ``adaptor.safetensors``, the weights of the epoch of highest validation AUC, and
        ``model.json``, what they depend on.
    data : Interactions
        What is trained and validated on.
    texts : EncodedTexts
        Patterns and reasons, by the codes of `data`.
    backbone : str
        A name that `build_model` knows.
    settings : RunSettings
        Sizes of the training.
    seed : int, default=0
        Of the training.
    report : callable, optional
        Called after each epoch with its number, counted from 1, and its validation AUC.

    Returns
    -------
    augmented model

    Raises
    ------
    RunFolderError
        If the folder keeps a model of another training, or cannot be written.
    """
    path = Path(folder)
    depends = {
        "backbone": backbone,
        "seed": seed,
        **everything_else(data, ScoreTable.empty(), settings, {}),
        **describe_texts(texts),
    }
    rows = settings.rows(data, seed)
    adaptor = Mode.of(MODE).adaptor(data, rows, seed, texts=texts)
    assert adaptor is not None
    if (path / _SETTINGS).exists():
        different = changes(read_json(path / _SETTINGS), depends)
        if different:
            raise RunFolderError(f"{path} keeps another model ({'; '.join(different)}). Choose another folder.")
        model = build_model(
            backbone,
            data,
            embedding_dim=settings.embedding_dim,
            dropout=settings.dropout,
            l2=settings.l2,
            seed=seed,
            history_length=settings.history_length,
            histories=settings.histories,
            device=settings.device,
            arguments=settings.model_arguments,
            dense=adaptor.widths,
        )
        model.load_state_dict(safetensors.torch.load_file(path / _WEIGHTS))
        model = augment(model, adaptor, user="user_id", item="item_id")
        model.augmentation.load(path)
        return model
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error}). Choose another folder.") from None
    model = train(
        data,
        rows,
        ScoreTable.empty(),
        backbone=backbone,
        config=SelectiveConfig.of_mode("none"),
        seed=seed,
        settings=settings,
        adaptor=adaptor,
        report=report,
    ).model
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(weights, path / _WEIGHTS)
    model.augmentation.save(path)
    write_json(path / _SETTINGS, depends)  # last: a folder with it is whole
    return model
