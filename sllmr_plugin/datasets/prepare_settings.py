"""What `prepare` does with a data set, checked before anything is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sllmr_plugin.datasets.raw.amazon import AMAZON_2014, AMAZON_2023
from sllmr_plugin.datasets.raw.delimited import Delimited
from sllmr_plugin.datasets.raw.movielens import MovieLens
from sllmr_plugin.datasets.raw.values import RawFormat
from sllmr_plugin.errors import ConfigError

CHOICES = {
    "format": ("amazon2014", "amazon2023", "movielens1m", "recbole", "csv"),
    "split": ("leave-last-out", "time", "none"),
    "negative_sampling": ("uniform", "popularity"),
    "file_format": ("csv", "parquet"),
}
COLUMNS = ("user_id", "item_id", "rating", "timestamp", "position", "title", "category", "brand")


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of `prepare`.

    Parameters
    ----------
    format : {"amazon2014", "amazon2023", "movielens1m", "recbole", "csv"}
        How the raw files are written.
    k_core : int, default=5
        Keep users and items with at least so many interactions with each other; 0 keeps all.
    split : {"leave-last-out", "time", "none"}, default="leave-last-out"
        ``leave-last-out``: of each user the last interaction is test, the one before it valid. ``time``: the
        latest of all users' interactions. ``none``: no column ``split``.
    test_share, valid_share : float, default=0.1
        Of the interactions, for ``split="time"``.
    min_rating : float or None, default=None
        Interactions rated lower, or not at all, are left out.
    negatives : int, default=0
        Rows with label 0 that are added for each interaction.
    negative_sampling : {"uniform", "popularity"}, default="uniform"
        Which items they are: any with the same chance, or by their number of training interactions.
    seed : int, default=0
        Decides the negatives; at least 0.
    max_bad_share : float, default=0.01
        More malformed lines than this share of a file are an error.
    file_format : {"csv", "parquet"}, default="csv"
        Of what is written.
    columns : mapping of str to str
        For ``csv`` and ``recbole``: ``user_id``, ``item_id``, ``rating``, ``timestamp``, ``position``, ``title``,
        ``category`` or ``brand`` -> what the files call it.
    header : sequence of str or None, default=None
        For ``csv``: names of the columns of an interactions file without a line of names.
    delimiter : str or None, default=None
        For ``csv`` and ``recbole``: between two fields. None is a comma in ``csv``; in ``recbole`` it is what stands
        between the first two names of each file's line 1, mostly a tab.

    Raises
    ------
    ConfigError
        If a value makes no sense.
    """

    format: str
    k_core: int = 5
    split: str = "leave-last-out"
    test_share: float = 0.1
    valid_share: float = 0.1
    min_rating: float | None = None
    negatives: int = 0
    negative_sampling: str = "uniform"
    seed: int = 0
    max_bad_share: float = 0.01
    file_format: str = "csv"
    columns: Mapping[str, str] = field(default_factory=dict)
    header: Sequence[str] | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")
        for name in ("k_core", "negatives", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more.")
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"max_bad_share is {self.max_bad_share}; give a share from 0 to 1.")
        if not (self.test_share > 0 and self.valid_share >= 0 and self.test_share + self.valid_share < 1):
            raise ConfigError(
                f"test_share is {self.test_share} and valid_share {self.valid_share}; give shares that leave "
                "something to train on, the first above 0."
            )
        unknown = [name for name in self.columns if name not in COLUMNS]
        if unknown:
            raise ConfigError(f"columns names {unknown[0]!r}; choose among {', '.join(COLUMNS)}.")
        if len(set(self.columns.values())) < len(self.columns):
            raise ConfigError(f"columns gives two names to one column ({dict(self.columns)}); choose one of them.")
        self._check_format()

    def _check_format(self) -> None:
        if self.columns and self.format not in ("csv", "recbole"):
            raise ConfigError(f"columns has no meaning for {self.format}, whose fields are fixed; leave it out.")
        if self.format != "csv" and self.header is not None:
            raise ConfigError(f"header has no meaning for {self.format}, whose files name their fields; leave it out.")
        if self.format not in ("csv", "recbole") and self.delimiter is not None:
            raise ConfigError(f"delimiter has no meaning for {self.format}; leave it out.")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ConfigError(f"delimiter is {self.delimiter!r}; give one character other than a quote or line break.")

    def reader(self) -> RawFormat:
        """Return what reads the files."""
        if self.format in ("csv", "recbole"):
            typed = self.format == "recbole"
            delimiter = self.delimiter or (None if typed else ",")
            return Delimited(renames=self.columns, header=self.header, delimiter=delimiter, typed=typed)
        fixed: dict[str, RawFormat] = {
            "amazon2014": AMAZON_2014,
            "amazon2023": AMAZON_2023,
            "movielens1m": MovieLens(),
        }
        return fixed[self.format]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return dataclasses.asdict(self)
