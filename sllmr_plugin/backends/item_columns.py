"""Sparse features of the item as columns of the CTR libraries' models."""

from __future__ import annotations

from typing import Any

from ..knowledge.item_features import ItemFeatures
from .deepctr import import_deepctr_torch


def sparse_columns(features: ItemFeatures, embedding_dim: int = 16) -> list[Any]:
    """Return the `SparseFeat` columns that a DeepCTR-Torch model must be built with to read features of the item.

    Parameters
    ----------
    features : ItemFeatures
        For instance of semantic ids.
    embedding_dim : int, default=16
        That of the model's other embeddings.

    Returns
    -------
    list of SparseFeat
        To be added to the feature columns of the linear and the deep part.

    Examples
    --------
    >>> features = ItemFeatures.of(ids.assign(vectors), item_index=items)  # doctest: +SKIP
    >>> columns += sparse_columns(features)  # doctest: +SKIP
    >>> model = DeepFM(columns, columns)  # doctest: +SKIP
    >>> model.fit(features.add(x), y)  # doctest: +SKIP
    """
    sparse = import_deepctr_torch().inputs.SparseFeat
    return [sparse(name, len(values) + 1, embedding_dim) for name, values in features.vocabularies.items()]
