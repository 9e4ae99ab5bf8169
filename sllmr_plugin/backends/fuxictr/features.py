"""Further features in a FuxiCTR feature map: an adaptor's columns, and sparse features of the item."""

from __future__ import annotations

import copy
from typing import Any

from ...errors import AugmentError
from ...knowledge.adaptor import Adaptor
from ...knowledge.item_features import ItemFeatures


def numeric_names(name: str, width: int) -> list[str]:
    """Return the names of a column's numbers, where each is a feature of its own."""
    return [f"{name}_{place}" for place in range(width)]


def dense_features(feature_map: Any, adaptor: Adaptor, *, user: str, item: str, numeric: bool = False) -> Any:
    """Return a feature map that a FuxiCTR model must be built with to take an adaptor.

    Data and loaders stay those of the first feature map: `augment` fills the columns.

    Parameters
    ----------
    feature_map : fuxictr.features.FeatureMap
        Of the data; not changed.
    adaptor : Adaptor
        For instance an `EmbedAdaptor`.
    user, item : str
        The features that carry the ids, whose ``source`` the columns get.
    numeric : bool, default=False
        False makes each column a feature of type ``embedding``, which a linear map brings to the size of the other
        embeddings. True makes each of its numbers a feature of type ``numeric``, for models with a logistic regression
        over all features (DeepFM, FM, LR, WideDeep, xDeepFM and others): FuxiCTR's takes no vectors.

    Returns
    -------
    fuxictr.features.FeatureMap
        A copy with the columns at the end.

    Raises
    ------
    AugmentError
        If there are such features already.
    """
    added: dict[str, dict[str, Any]] = {}
    for name, width in adaptor.widths.items():
        source = feature_map.features[user if adaptor.sides.get(name) == "user" else item].get("source", "")
        if numeric:
            added |= {own: {"type": "numeric", "source": source} for own in numeric_names(name, width)}
        else:
            added[name] = {"type": "embedding", "source": source, "pretrain_dim": width}
    return _extended(feature_map, added)


def sparse_features(feature_map: Any, features: ItemFeatures) -> Any:
    """Return a feature map with features of the item, such as semantic ids, as categorical ones.

    Parameters
    ----------
    feature_map : fuxictr.features.FeatureMap
        Of data without them; not changed.
    features : ItemFeatures
        Their vocabularies. The data need the columns, too: ``features.add(x)``.

    Returns
    -------
    fuxictr.features.FeatureMap
        A copy with the features at the end; code 0 pads.

    Raises
    ------
    AugmentError
        If there are such features already.
    """
    source = feature_map.features[features.item].get("source", "")
    added = {
        name: {"type": "categorical", "source": source, "padding_idx": 0, "vocab_size": len(values) + 1}
        for name, values in features.vocabularies.items()
    }
    return _extended(feature_map, added)


def _extended(feature_map: Any, added: dict[str, dict[str, Any]]) -> Any:
    twice = [name for name in added if name in feature_map.features]
    if twice:
        raise AugmentError([f"the feature map has {', '.join(twice)} already. Pass that of the data without them."])
    extended = copy.deepcopy(feature_map)
    extended.features |= added
    extended.num_fields = extended.get_num_fields()
    extended.total_features += sum(spec.get("vocab_size", 1) for spec in added.values())
    extended.set_column_index()
    return extended
