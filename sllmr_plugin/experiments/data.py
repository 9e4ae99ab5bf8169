"""The files of a data set: where they lie, how they are made, read and checked."""

from __future__ import annotations

import hashlib
import os
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..datasets.demo import demo_paths
from ..datasets.interactions import Interactions, load_interactions
from ..errors import ConfigError, DataError, DataSetWarning, MissingDataError
from ..scores.table import ScoreTable
from ..settings import Settings

ROOT_VARIABLE = "SLLMR_DATA"
"""Environment variable that names the folder of all data sets."""

_FORMS = (".csv", ".csv.gz", ".parquet")
_FILES = ("interactions", "items", "scores", "texts", "reasons", "triples", "synthetic", "interest")
_ROW_FILES = {"synthetic", "interest"}
_COUNTS = ("users", "items", "interactions")


@dataclass(frozen=True)
class DataSource(Settings):
    """A data set on disk: ``ROOT/FOLDER/interactions.csv`` and so on.

    Attributes
    ----------
    name : str
        What runs are called by.
    about : str, default=""
        One line for ``sllmr train --list``.
    root : str or None, default=None
        Folder of all data sets; None takes the environment variable ``SLLMR_DATA``, else ``data``.
    folder : str or None, default=None
        Folder of this one in `root`; None takes `name`.
    bundled : bool, default=False
        The files come with the package; `root` and `folder` are not used.
    interactions, items, scores, texts, reasons, synthetic, interest : str or None
        Files in the folder, as `load_interactions`, `ScoreTable.read` and `TextTable.read` take them. Without a
        suffix, the one that is there of ``.csv``, ``.csv.gz`` and ``.parquet``. `items` None takes the items that are
        interacted with; `scores` and `texts` are read by the modes that use them, `reasons` by mode curec with the
        texts: None, the default, where the texts hold them; `synthetic` and `interest` by the modes that add rows and
        leave some out.
    triples : str or None, default=None
        File of statements about items, as `Triples.read` takes it, for modes with ``triples`` or ``graph``.
    triples_columns : tuple of str, default=()
        Of a table of items, the columns that are attributes, as of `Triples.read`.
    attributes : tuple of str, default=()
        Columns of the items that models take as features, as of `load_interactions`.
    split : {"leave-last-out", "column"}, default="leave-last-out"
        ``leave-last-out``: the last interaction of a user is test and the one before it validation; a
        ``split`` column must leave no user more than one of each. ``column``: as that column says; it must be
        there.
    source : str, default=""
        Where a user gets the raw files.
    prepare : tuple of str, default=()
        Commands that make interactions and items; ``{folder}`` stands for the folder, and in all commands
        ``{interactions}`` and ``{items}`` for these files.
    score : tuple of str, default=()
        Commands that make the scores.
    write : tuple of str, default=()
        Commands that make the texts.
    scores_note : str, default=""
        What a report must say of the scores.
    expected : mapping of str to int, default={}
        ``users``, ``items`` and ``interactions`` that the files hold; a `DataSetWarning` says where they differ.
    sha256 : mapping of str to str, default={}
        Fingerprints of the files ``interactions``, ``items``, ``scores``, ``texts``, ``reasons``, ``triples``,
        ``synthetic`` and ``interest``, as far as they are checked.

    Raises
    ------
    ConfigError
        If a field has a value that makes no sense.
    """

    name: str
    about: str = ""
    root: str | None = None
    folder: str | None = None
    bundled: bool = False
    interactions: str = "interactions"
    items: str | None = "items"
    scores: str | None = "llm_scores"
    texts: str | None = "llm_texts"
    reasons: str | None = None
    triples: str | None = None
    triples_columns: tuple[str, ...] = ()
    synthetic: str | None = "synthetic"
    interest: str | None = "interest"
    attributes: tuple[str, ...] = ()
    split: Literal["leave-last-out", "column"] = "leave-last-out"
    source: str = ""
    prepare: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    scores_note: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Return the keys of the mappings that name nothing."""
        problems = []
        for name, keys in (("expected", _COUNTS), ("sha256", _FILES)):
            given = getattr(self, name)
            unknown = [key for key in given if key not in keys]
            if unknown:
                problems.append(f"{name}.{unknown[0]}={given[unknown[0]]!r} names none of {', '.join(keys)}")
        return problems

    @property
    def path(self) -> Path:
        """The folder that the files are looked for in."""
        if self.bundled:
            return demo_paths().interactions.parent
        return Path(self.root or os.environ.get(ROOT_VARIABLE) or "data").expanduser() / (self.folder or self.name)

    @property
    def is_there(self) -> bool:
        """Whether interactions and items can be read."""
        try:
            return all(self._find(name) for name in ("interactions", "items") if getattr(self, name))
        except DataError:
            return False

    def files(self, reads: Sequence[str] = ("scores",)) -> dict[str, Path]:
        """Return the paths of interactions, items and what else is read, as far as the data set has them.

        Parameters
        ----------
        reads : sequence of {"scores", "texts", "reasons", "triples", "synthetic", "interest"}, default=("scores",)
            Files that are needed in addition to interactions and items.

        Raises
        ------
        MissingDataError
            If a file is not there: which, where its raw files come from and the commands that make it.
        ConfigError
            If the data set has no scores, texts or triples.
        """
        for name in reads:
            if getattr(self, name) is None:
                others = {"scores": "run.mode=none"}.get(name, f"modes that read no {name}")
                raise ConfigError(f"{self.name}: data.{name} is null, which leaves only {others}; name a file.")
        names = ("interactions", "items", *reads)
        found = {name: self._find(name) for name in names if getattr(self, name) is not None}
        absent = [name for name, path in found.items() if path is None]
        if absent:
            raise MissingDataError(self._how_to_get(absent))
        return {name: path for name, path in found.items() if path is not None}

    def pinned(self, reads: Sequence[str] = ("scores",)) -> DataSource:
        """Return the data set with its root and the fingerprints of `files`, so that it can be found and checked."""
        prints = {name: fingerprint(path) for name, path in self.files(reads).items()}
        if self.bundled:
            return replace(self, sha256=prints)
        return replace(self, root=str(self.path.parent.resolve()), folder=self.path.name, sha256=prints)

    def _find(self, name: str) -> Path | None:
        given = self.path / getattr(self, name)
        if given.name.endswith(_FORMS):
            return given if given.is_file() else None
        there = [path for path in (given.with_name(given.name + form) for form in _FORMS) if path.is_file()]
        if len(there) > 1:
            names = " and ".join(path.name for path in there)
            raise DataError(
                f"{self.path} holds {names}; say which with -o data.{name}={there[0].name}, or delete the other."
            )
        return there[0] if there else None

    def _how_to_get(self, absent: list[str]) -> str:
        files = ", ".join(getattr(self, name) for name in absent)
        forms = "" if files.endswith(_FORMS) else f" ({', '.join(_FORMS)})"
        lines = [f"{self.name}: no {files}{forms} in {self.path}."]
        if not set(absent) <= {"scores", "texts", "reasons", "triples"} | _ROW_FILES:
            lines += [f"  The raw files: {self.source}"] if self.source else []
            lines += self._commands("To make them", self.prepare)
        if "scores" in absent:
            lines += self._commands("To make the scores", self.score)
            lines += ["  Without scores only the plain model, run.mode=none, can be trained."]
        if {"texts", "reasons"} & set(absent):
            lines += self._commands("To make the texts", self.write)
        if _ROW_FILES & set(absent):
            lines += [
                "  Synthetic interactions are made by sllmr synthesize, and judged as sllmr interest --help says."
            ]
        lines += [
            f"  Are they elsewhere? Name the folder that {self.path.name}/ is in: --data-dir, or {ROOT_VARIABLE}."
        ]
        return "\n".join(lines)

    def _commands(self, purpose: str, commands: tuple[str, ...]) -> list[str]:
        if not commands:
            return []
        places = {"{folder}": self.path}
        for name in ("interactions", "items"):
            places[f"{{{name}}}"] = (
                getattr(self, name) and self._find(name)
            ) or self.path / f"{name}.csv"  # what sllmr prepare writes
        lines = [f"  {purpose}:"]
        for command in commands:
            for placeholder, path in places.items():
                command = command.replace(placeholder, shlex.quote(str(path)))
            lines.append("    " + command)
        return lines


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_source(source: DataSource, reads: Sequence[str] = ("scores",)) -> tuple[Interactions, ScoreTable]:
    """Read and check a data set.

    Parameters
    ----------
    source : DataSource
        Where the files are and what must hold for them.
    reads : sequence of {"scores", "texts", "reasons", "triples", "synthetic", "interest"}, default=("scores",)
        What will be read in addition to the interactions. Without scores the table is empty; texts are only checked.

    Returns
    -------
    data : Interactions
    scores : ScoreTable
        By the codes of `data`.

    Raises
    ------
    MissingDataError
        If a file is not there.
    DataError, ScoreTableError
        If a file cannot be used, is not the one that its fingerprint was taken of, or is not split as it should be.
    """
    paths = source.files(reads)
    _check_fingerprints(source, paths)
    data = load_interactions(paths["interactions"], paths.get("items"), attributes=source.attributes)
    if source.split == "column" and not data.has_splits:
        raise DataError(
            f"{paths['interactions']} has no column `split`, but data.split is 'column'; add it, or set "
            "data.split=leave-last-out."
        )
    _check_last_out(source, data, paths["interactions"])
    _check_counts(source, data)
    if "scores" not in paths:
        return data, ScoreTable.empty()
    scores = ScoreTable.read(paths["scores"], user_index=data.user_index, item_index=data.item_index)
    if source.scores_note:
        scores = replace(scores, origin={"note": source.scores_note, **scores.origin})
    return data, scores


def _check_fingerprints(source: DataSource, paths: Mapping[str, Path]) -> None:
    for name, wanted in source.sha256.items():
        if name in paths and fingerprint(paths[name]) != wanted:
            raise DataError(
                f"{paths[name]} is not the file that data.sha256.{name} was taken of; restore that file, or take the "
                "line out to use this one."
            )


def _check_last_out(source: DataSource, data: Interactions, path: Path) -> None:
    if source.split != "leave-last-out":
        return
    for name, part in (("test", data.test), ("validation", data.valid)):
        users = part["user"][part["user"].duplicated()].unique()
        if len(users):
            first = data.user_ids.tolist()[users[0] - 1]
            raise DataError(
                f"{path} has {len(users)} user(s) with more than one {name} interaction, the first is {first!r}, but "
                "data.split is 'leave-last-out'; set data.split=column if the split column is right."
            )


def _check_counts(source: DataSource, data: Interactions) -> None:
    counts = {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(data.train) + len(data.valid) + len(data.test),
    }
    wrong = [f"{counts[name]} {name} instead of {n}" for name, n in source.expected.items() if counts[name] != n]
    if wrong:
        warnings.warn(
            f"{source.name} in {source.path} has {', '.join(wrong)}, so figures under this name will not compare. "
            "Prepare it again, or correct data.expected.",
            DataSetWarning,
            stacklevel=3,
        )
