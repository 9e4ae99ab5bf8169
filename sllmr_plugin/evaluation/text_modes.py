"""Modes of a comparison that read LLM-written texts: which adaptor a run gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..augmentation import Adaptor, EncodedTexts, KARAdaptor, LLMCFAdaptor
from ..config import MODES
from ..errors import ConfigError
from .folder_files import digest

TEXT_MODES = ("kar", "llm_cf")
ALL_MODES = (*MODES, *TEXT_MODES)
"""Every mode of a comparison: those of `SelectiveConfig` and those that need texts."""


def check_texts(modes: Sequence[str], texts: object | None) -> None:
    """Raise `ConfigError` if a mode needs texts and there are none."""
    needing = [mode for mode in modes if mode in TEXT_MODES]
    if needing and texts is None:
        raise ConfigError(
            f"mode {', '.join(needing)} reads LLM-written texts of users and items; give a text table "
            "(texts=, or --texts FILE: kind, id, text), or leave the mode out."
        )


def build_adaptor(
    mode: str, encoded: EncodedTexts | None, rows: tuple[Mapping[str, np.ndarray], np.ndarray], seed: int
) -> Adaptor | None:
    """Build the adaptor of a run.

    Parameters
    ----------
    mode : str
        One of `ALL_MODES`.
    encoded : EncodedTexts or None
        Vectors by the codes of the rows; may be None where the mode needs none.
    rows : tuple of (mapping of str to ndarray, ndarray)
        Training rows, of which LLM-CF draws its exemplars.
    seed : int
        Of the adaptor's weights and of the exemplars.

    Returns
    -------
    Adaptor or None
        None for the modes of `SelectiveConfig`.
    """
    if mode not in TEXT_MODES:
        return None
    check_texts([mode], encoded)
    assert encoded is not None
    if mode == "kar":
        return KARAdaptor(encoded, seed=seed)
    return LLMCFAdaptor(encoded, *rows, user="user_id", item="item_id", seed=seed)


def describe_texts(encoded: EncodedTexts | None) -> dict[str, Any]:
    """Return what results depend on of the texts, as plain JSON values; nothing without texts."""
    if encoded is None:
        return {}
    arrays = [part[kind] for kind in ("user", "item") for part in (encoded.codes, encoded.vectors)]
    if (told := encoded.reasoning) is not None:
        arrays += [told.users, told.items, told.labels, told.vectors]
    return {"texts": digest(*arrays)}
