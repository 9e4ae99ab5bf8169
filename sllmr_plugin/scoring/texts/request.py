"""What a text is asked about: a user with a history, an item, or an exemplar: what a user did with an item."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["user", "item", "reasoning"]
KINDS: tuple[Kind, ...] = ("user", "item", "reasoning")
DEFAULT_KINDS: tuple[Kind, ...] = ("user", "item")
"""What both KAR and LLM-CF need. Reasoning is LLM-CF's alone."""


@dataclass(frozen=True)
class Exemplar:
    """What a user did with an item, to be explained.

    Parameters
    ----------
    item_id : Hashable
        Raw id; no model ever sees it.
    title : str
        The item's title.
    label : int
        1 if the user took the item, else 0.
    """

    item_id: Hashable
    title: str
    label: int


@dataclass(frozen=True)
class TextRequest:
    """One text to be written.

    Parameters
    ----------
    kind : {"user", "item", "reasoning"}
        What it is about.
    id : Hashable
        Raw id of the item, else of the user; no model ever sees it.
    titles : tuple of str
        Of a user: the titles of the last training interactions, oldest first; of an exemplar, of those before it. Of an
        item: its title.
    attributes : tuple of (str, str)
        Names and values of an item's or the exemplar's item's attributes, such as ``("category", "board games")``.
    exemplar : Exemplar or None
        What is to be explained, of kind reasoning.
    """

    kind: Kind
    id: Hashable
    titles: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()
    exemplar: Exemplar | None = None

    @property
    def subject(self) -> str:
        """The id or ids, for the reader of a ledger."""
        return f"{self.id}" if self.exemplar is None else f"{self.id}, item {self.exemplar.item_id}"

    @property
    def repeat(self) -> int:
        """0: a text is asked for once."""
        return 0

    @property
    def n_candidates(self) -> int:
        """0: a text scores nothing."""
        return 0
