"""Builds any single-task DeepCTR-Torch backbone over user and item ids, by its lower-case name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backends.deepctr import import_deepctr_torch
from ..backends.deepctr.augmented import complete
from ..datasets.features import HISTORY_LENGTH
from ..datasets.interactions import Interactions
from ..errors import BackboneError, ConfigError
from ..settings import as_type, type_like


@dataclass(frozen=True)
class _Recipe:
    """How a backbone's class is called."""

    class_name: str
    columns: tuple[str, ...] = (
        "linear_feature_columns",
        "dnn_feature_columns",
    )  # arguments that take the columns
    history: bool = False  # whether it reads the user's history
    dropout: str | None = "dnn_dropout"  # argument that takes the dropout rate
    dense: bool = True  # whether it reads dense columns
    fields_are_tables: bool = False  # whether it takes the number of its embedding tables for that of its fields
    heads: int = 1  # attention heads among which the embedding is divided, unless the arguments say otherwise
    options: Mapping[str, Any] = field(default_factory=dict)


_RECIPES = {
    "wdl": _Recipe("WDL"),
    "deepfm": _Recipe("DeepFM"),
    "xdeepfm": _Recipe("xDeepFM", fields_are_tables=True),
    "autoint": _Recipe("AutoInt", fields_are_tables=True, heads=2),
    "dcn": _Recipe("DCN", options={"cross_parameterization": "vector"}),
    "dcnv2": _Recipe("DCN", options={"cross_parameterization": "matrix"}),
    "dcnmix": _Recipe("DCNMix"),
    "din": _Recipe("DIN", columns=("dnn_feature_columns",), history=True),
    "dien": _Recipe("DIEN", columns=("dnn_feature_columns",), history=True),
    "afm": _Recipe("AFM", dense=False, dropout="afm_dropout"),
    "afn": _Recipe("AFN", dense=False, fields_are_tables=True),
    "ccpm": _Recipe("CCPM", dense=False),
    "difm": _Recipe("DIFM", dense=False, heads=4),
    "fibinet": _Recipe("FiBiNET", fields_are_tables=True),
    "ifm": _Recipe("IFM", dense=False),
    "mlr": _Recipe("MLR", columns=("region_feature_columns",), dropout=None),
    "nfm": _Recipe("NFM"),
    "onn": _Recipe("ONN"),
    "pnn": _Recipe("PNN", columns=("dnn_feature_columns",)),
}

BACKBONES = tuple(_RECIPES)
"""Names that `build_model` knows."""

_L2_ARGUMENTS = {"l2_reg_embedding", "l2_reg_linear"}


def build_model(
    name: str,
    data: Interactions,
    *,
    embedding_dim: int = 16,
    dropout: float = 0.0,
    l2: float | None = None,
    seed: int = 1024,
    history_length: int = HISTORY_LENGTH,
    histories: bool = False,
    device: str = "cpu",
    arguments: Mapping[str, Any] | None = None,
    dense: Mapping[str, int] | None = None,
) -> Any:
    """Build an untrained DeepCTR-Torch model whose inputs are ids of users and items, attributes and histories.

    The inputs are ``user_id``, ``item_id`` and the attributes of `data` (``item_brand``); those with several values an
    item are averaged. DIN and DIEN also read ``hist_item_id`` and ``seq_length``, and attend to the history. With
    `histories` they attend to the history of each attribute of one value as well, and all other backbones read the
    averages of the same histories, as DIN does of attributes with several values. A history shares the embeddings of
    the feature that it is a history of. Layer sizes are DeepCTR-Torch's defaults, unless `arguments` has others.

    Parameters
    ----------
    name : str
        One of `BACKBONES`, in any case. ``dcn`` has the vector form of the cross layer, ``dcnv2`` the
        matrix form.
    data : Interactions
        Gives the vocabularies: ``n_users + 1`` and ``n_items + 1``, since code 0 is padding.
    embedding_dim : int, default=16
        Length of every embedding vector. AutoInt needs a multiple of 2, DIFM of 4.
    dropout : float, default=0.0
        Dropout rate of the deep part, in [0, 1).
    l2 : float or None, default=None
        Weight of the L2 penalty on embeddings and on the linear part, as far as the model has them; an argument of the
        same meaning in `arguments` counts for more. None is DeepCTR-Torch's default: 1e-5, of DIN's and DIEN's
        embeddings 1e-6.
    seed : int, default=1024
        Seed of the initial weights. DeepCTR-Torch passes it to ``torch.manual_seed``, so it also resets the
        global generator. Its MLR ignores the seed: all its initial weights are the same.
    history_length : int, default=20
        Columns of ``hist_item_id``, and items in the histories of attributes.
    histories : bool, default=False
        Read the user's history of items and of every attribute of `data`.
    device : str, default="cpu"
        A torch device such as ``"cuda:0"``.
    arguments : mapping of str to Any, optional
        The class's own constructor arguments, for instance ``{"dnn_hidden_units": (256, 128)}``; those that
        the parameters above decide cannot be among them.
    dense : mapping of str to int, optional
        Dense columns beside these, name -> dimension, for instance `Adaptor.widths`. They come last, so that the
        initial embeddings are those of the model without them.

    Returns
    -------
    BaseModel
        Not compiled.

    Raises
    ------
    BackboneError
        If the name is unknown (the nearest valid one is named), a size does not fit the model, an argument is
        not the model's, of a wrong type or refused by it, or the model takes no dense columns; DIEN, if an item may
        have several values of an attribute.
    """
    key = check_backbone(name, embedding_dim, dropout, arguments)
    recipe = _RECIPES[key]
    from_caller = check_arguments(key, arguments or {})
    check_attributes(key, data)
    attended = []
    if recipe.history:  # it compares vectors of one item with one value each
        single = [feature for feature, attribute in data.attributes.items() if not attribute.has_several]
        attended = ["item_id", *(single if histories else [])]
    columns = _feature_columns(
        data, embedding_dim, history_length, histories, recipe.history, shared=not recipe.fields_are_tables
    )
    if dense:
        check_dense(name)
        dense_columns = import_deepctr_torch().inputs.DenseFeat
        columns += [dense_columns(column, width) for column, width in dense.items()]
    given: dict[str, Any] = {**dict.fromkeys(recipe.columns, columns), **recipe.options}
    if recipe.history:
        given["history_feature_list"] = attended
    if recipe.dropout is not None:
        given[recipe.dropout] = dropout
    model_class = _model_class(recipe)
    if l2 is not None:
        penalties = inspect.signature(model_class).parameters.keys() & _L2_ARGUMENTS
        given |= dict.fromkeys(penalties - from_caller.keys(), l2)
    try:
        model = model_class(**given, **from_caller, seed=seed, device=device)
    except Exception as error:  # whatever the library makes of a value that it cannot use
        if not from_caller:
            raise
        raise BackboneError(
            f"{recipe.class_name} cannot be built with {from_caller} ({type(error).__name__}: {error}); change these "
            "arguments."
        ) from error
    if recipe.fields_are_tables and histories:
        _share_tables(model, ["item_id", *data.attributes])
    return model


def check_backbone(
    name: str, embedding_dim: int, dropout: float = 0.0, arguments: Mapping[str, Any] | None = None
) -> str:
    """Return the name of a backbone as `BACKBONES` spells it, if it can be built with these sizes.

    Parameters
    ----------
    name, embedding_dim, dropout, arguments
        As for `build_model`.

    Raises
    ------
    BackboneError
        As `build_model`.
    """
    key = _key(name)
    recipe = _RECIPES[key]
    heads = check_arguments(key, arguments or {}).get("att_head_num", recipe.heads)
    if heads < 1:
        raise BackboneError(f"{key} cannot have att_head_num={heads}; take 1 or more.")
    if embedding_dim < 1 or embedding_dim % heads:
        raise BackboneError(f"{key} cannot have embedding_dim={embedding_dim}; take a positive multiple of {heads}.")
    if not 0 <= dropout < 1:
        raise BackboneError(f"dropout={dropout} is not a rate; take a number in [0, 1).")
    if dropout and recipe.dropout is None:
        raise BackboneError(f"{key} has no dropout, so dropout={dropout} would do nothing; leave it at 0.")
    return key


def check_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor arguments of a backbone in the types that its class expects.

    Parameters
    ----------
    name : str
        One of `BACKBONES`.
    arguments : mapping of str to Any
        As for `build_model`; lists stand for tuples. A value must be of the type of the class's default.

    Raises
    ------
    BackboneError
        If the class has no such argument (the nearest is named), the argument is set elsewhere, or the type is wrong.
    """
    key = _key(name)
    if not arguments:  # and the library need not be imported
        return {}
    recipe = _RECIPES[key]
    defaults = {
        argument: parameter.default
        for argument, parameter in inspect.signature(_model_class(recipe)).parameters.items()
        if parameter.default not in (inspect.Parameter.empty, None)
    }
    decided = {
        **dict.fromkeys(recipe.options, "it belongs to the backbone's name"),
        **{argument: f"it is the {argument} of the training" for argument in ("seed", "device")},
        "task": "click models are binary",
        **({recipe.dropout: "it is the dropout of the training"} if recipe.dropout else {}),
    }
    checked = {}
    for argument, value in arguments.items():
        if argument in decided:
            raise BackboneError(f"{key} cannot be given {argument!r} here: {decided[argument]}; leave it out.")
        if argument not in defaults:
            valid = [valid for valid in defaults if valid not in decided]
            nearest = difflib.get_close_matches(argument, valid, n=1, cutoff=0.0)[0]
            raise BackboneError(
                f"{key} has no argument {argument!r} that can be set; did you mean {nearest!r}? "
                f"There are {', '.join(valid)}."
            )
        try:
            checked[argument] = as_type(value, type_like(defaults[argument]))
        except ConfigError as error:
            raise BackboneError(f"{key}: {argument}: {error}") from None
    return checked


def check_dense(name: str) -> None:
    """Raise `BackboneError` if a backbone of `BACKBONES` takes no dense columns."""
    if not _RECIPES[name.lower()].dense:
        able = ", ".join(key for key, recipe in _RECIPES.items() if recipe.dense)
        raise BackboneError(
            f"{name} takes no dense columns, which kar, llm_cf, curec, reclm and embed need; choose one of {able}."
        )


def check_attributes(name: str, data: Interactions) -> None:
    """Raise `BackboneError` if a backbone of `BACKBONES` would leave out an attribute of the data."""
    several = [attribute.column for attribute in data.attributes.values() if attribute.has_several]
    if several and name.lower() == "dien":
        raise BackboneError(
            f"DeepCTR-Torch's DIEN leaves out columns of several values such as {several[0]!r}; leave the attribute "
            "out, or choose din."
        )


def feature_names(model: Any) -> list[str]:
    """Return the names of a DeepCTR-Torch model's inputs, in the order of its input matrix."""
    return list(model.feature_index)


def input_rows(model: Any, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of `rows` that a model reads, as its ``fit`` and ``predict`` take them.

    Parameters
    ----------
    model : BaseModel
        A DeepCTR-Torch model over any of the columns in `rows`.
    rows : mapping of str to ndarray
        Columns of N rows each: (N,), or (N, L) for histories.

    Returns
    -------
    dict of str to ndarray
        In the order of `feature_names`. DIEN gets a ``seq_length`` of at least 1, so an empty history counts
        as one padding item: DIEN fails on a batch in which no row has a history.

    Raises
    ------
    BackboneError
        If the model reads a column that `rows` lacks, or has another width.
    """
    rows = complete(model, rows)  # an augmented model fills its own columns
    missing = [name for name in feature_names(model) if name not in rows]
    if missing:
        raise BackboneError(
            f"the model reads {', '.join(map(repr, missing))}, but the rows have only "
            f"{', '.join(map(repr, rows))}; build it with build_model, or over these columns (load_interactions reads "
            "attributes)."
        )
    selected = {name: np.asarray(rows[name]) for name in feature_names(model)}
    for name, (first, end) in model.feature_index.items():
        width = selected[name][:1].size
        if len(selected[name]) and width != end - first:
            raise BackboneError(
                f"the model reads {end - first} columns of {name!r}, but the rows have {width}; build model and rows "
                "with one history_length, over data with the same attributes."
            )
    if "seq_length" in selected and isinstance(model, import_deepctr_torch().models.DIEN):
        selected["seq_length"] = np.maximum(selected["seq_length"], 1)
    return selected


def _key(name: str) -> str:
    key = name.lower()
    if key not in _RECIPES:
        nearest = difflib.get_close_matches(key, BACKBONES, n=1, cutoff=0.0)[0]
        raise BackboneError(
            f"unknown backbone {name!r}; did you mean {nearest!r}? Valid names are {', '.join(BACKBONES)}."
        )
    return key


def _model_class(recipe: _Recipe) -> Any:
    return getattr(import_deepctr_torch().models, recipe.class_name)


def _feature_columns(
    data: Interactions, embedding_dim: int, history_length: int, histories: bool, attends: bool, *, shared: bool
) -> list[Any]:
    """Return the inputs of a model; histories stand in the order of their features, as DIN and DIEN need them.

    Averages have no length, so that code 0, no value, is left out; DIN and DIEN take the length of the first history.
    """
    inputs = import_deepctr_torch().inputs

    def sparse(name: str, size: int, table: str | None = None) -> Any:
        return inputs.SparseFeat(name, size, embedding_dim, embedding_name=table if shared else None)

    columns = [sparse("user_id", data.n_users + 1), sparse("item_id", data.n_items + 1)]
    past = []
    if histories or attends:
        item = sparse("hist_item_id", data.n_items + 1, "item_id")
        past.append(inputs.VarLenSparseFeat(item, history_length, length_name="seq_length" if attends else None))
    for name, attribute in data.attributes.items():
        column = sparse(name, attribute.vocabulary_size)
        columns.append(inputs.VarLenSparseFeat(column, attribute.width) if attribute.has_several else column)
        if histories:
            of_history = sparse(attribute.history, attribute.vocabulary_size, name)
            past.append(inputs.VarLenSparseFeat(of_history, history_length * attribute.width))
    return columns + past


def _share_tables(model: Any, features: list[str]) -> None:
    """Let histories look codes up in the tables of their features, in a model that was built with tables for each."""
    for tables in (model.embedding_dict, model.linear_model.embedding_dict):
        for name in features:
            spare, tables[f"hist_{name}"] = tables[f"hist_{name}"].weight, tables[name]
            for weights, _, _ in model.regularization_weight:
                weights[:] = [weight for weight in weights if weight is not spare]
