"""`extend_scores`: a student learns the LLM's scores, is judged on held-out users, and scores further pairs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from ..config import SelectiveConfig
from ..datasets.features import HISTORY_LENGTH, template_rows
from ..datasets.interactions import Interactions, load_interactions
from ..datasets.negatives import UnseenItems
from ..errors import CoverageError, CoverageWarning, DataError, NotLearntError, ScoreTableError
from ..knowledge.id_vectors import Vectors, VectorSource
from ..knowledge.pair_features import Matrix, PairFeatures, text_vectors
from ..knowledge.student import CrossFitted
from ..knowledge.vectors import TextEncoder, find_encoder
from ..progress import RunProgress
from ..scores.ids import encode_ids
from ..scores.origin import check_parquet_path, read_origin, write_parquet
from ..scores.reading import as_pandas, read_ids, read_table
from ..scores.rows import checked
from ..scores.table import ScoreTable
from ..scores.texts import texts_in
from ..settings import Bounds, Settings
from .store import write_json
from .student_report import Extension, Student, judge
from .training import RunSettings, require_split, train

_Count = Annotated[int, Bounds(least=1)]
_NUMBERS = ("score", "prompt_position", "spread", "n_answers")
_BLOCK = 4_000_000  # random keys held at a time


@dataclass(frozen=True)
class ExtensionSettings(Settings):
    """Which pairs the student scores, and how it is fitted and judged.

    Parameters
    ----------
    users : int or None, default=None
        Users who get scores, drawn at random among those with a training interaction; None takes all of these.
    items_per_user : int, default=100
        Items of each, drawn uniformly from the catalogue without those of the user's training and validation, and those
        that the LLM has scored for the user.
    probes : bool, default=True
        Also score the validation items of these users as probes, where the LLM has not.
    folds : int, default=5
        Parts that the scored users are dealt into; each is predicted by a student that has learnt from the others.
    rank_users, rank_items : int or None, default=1500 and 300
        Validation users ranked to judge the student, and items drawn for each of them; None takes all.
    write_anyway : bool, default=False
        Write the table even if the student ranks validation items clearly worse than what costs nothing.
    seed : int, default=0
        Of all draws and of the student.

    Raises
    ------
    ConfigError
        If numbers are out of range; all of them are named.
    """

    users: _Count | None = None
    items_per_user: _Count = 100
    probes: bool = True
    folds: Annotated[int, Bounds(least=2)] = 5
    rank_users: _Count | None = 1500
    rank_items: Annotated[int, Bounds(least=2)] | None = 300
    write_anyway: bool = False
    seed: Annotated[int, Bounds(least=0)] = 0


def extend_scores(
    scores: str | os.PathLike[str] | pd.DataFrame,
    interactions: str | os.PathLike[str] | pd.DataFrame | Interactions,
    items: str | os.PathLike[str] | pd.DataFrame | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    texts: VectorSource | None = None,
    encoder: TextEncoder | str | None = None,
    backbone: Any = None,
    pairs: str | os.PathLike[str] | pd.DataFrame | None = None,
    verbose: bool = True,
    **settings: Any,
) -> Extension:
    """Extend a score table to further users and items by a student of the LLM: ``sllmr extend`` in Python.

    The student is gradient-boosted trees on similarities of an item's texts and those of the user's history, popularity
    and the length of the history (`PairFeatures`). It learns from the table's candidates; probes never teach. A user
    whom the LLM has scored is predicted by a student that has not seen that user, here and in the table. Test
    interactions are not looked at.

    Parameters
    ----------
    scores : path or pandas.DataFrame
        The LLM's score table, as `ScoreTable.read` takes it, not a folder. Rows of an earlier extension are left out.
    interactions : path, pandas.DataFrame or Interactions
        As in `load_interactions`, with validation items.
    items : path or pandas.DataFrame, optional
        The catalogue: ``item_id, title``.
    out : path, optional
        A parquet file to write; what `Extension.content` has is written beside it as JSON.
    texts : path, pandas.DataFrame, mapping or Vectors, optional
        Descriptions of the items, as `sllmr texts` writes them, which are compared alone and behind the titles; or
        vectors of your own, as `Vectors.read` takes them.
    encoder : TextEncoder or str, optional
        Encodes titles and texts, see `find_encoder`; their TF-IDF weights are compared in any case. Default: SVD of
        these.
    backbone : str or model, optional
        What the student also has to beat: the name of a backbone, which is trained as the plain model of a comparison,
        or a trained model over the codes of `interactions`.
    pairs : path or pandas.DataFrame, optional
        ``user_id, item_id``: score these in place of drawn ones, for instance those of `pairs_to_judge`, and write
        them alone: all by the student, so that a threshold compares like with like. A training interaction among them
        is scored as if it had not been made; a test interaction is refused.
    verbose : bool, default=True
        Show progress.
    **settings
        Fields of `ExtensionSettings`, which are flags of ``sllmr extend``: ``users``, ``items_per_user``, ``probes``
        and others.

    Returns
    -------
    Extension
        The table and how well the student does; print it.

    Raises
    ------
    NotLearntError
        If the student ranks validation items clearly worse than popularity, content, both, or the backbone: by an
        interval that leaves out zero (`Extension.is_worse`). Nothing is written then; `write_anyway` writes.
    ConfigError, DataError, ScoreTableError, TextEncoderError
        If settings are out of range or a file cannot be used.

    Warns
    -----
    CoverageWarning
        If rows of the score table are left out, since they are not the LLM's scores of users and items that are known.

    Examples
    --------
    >>> extend_scores(
    ...     "llm_scores.parquet", "clicks.csv", "items.csv", texts="texts.parquet", out="extended.parquet"
    ... )  # doctest: +SKIP
    """
    chosen = ExtensionSettings(**settings)
    path = None if out is None else check_parquet_path(out, (scores, interactions, items, texts, pairs))
    progress = RunProgress(3 + (backbone is not None), verbose=verbose)
    data = interactions if isinstance(interactions, Interactions) else load_interactions(interactions, items)
    require_split(data, "validation")
    frame, table = llm_scores(scores, data, chosen.folds)
    given = None if pairs is None else _given_pairs(data, pairs)
    features, item_texts = student_features(data, texts, encoder)
    student = fit_student(features, table, data.n_users, folds=chosen.folds, seed=chosen.seed)
    progress.finish(f"student fitted on {len(table.candidates)} scores of {len(table.candidates.users)} users")
    others: dict[str, Any] = {}
    if backbone is not None:
        name, model = type(backbone).__name__, backbone
        if isinstance(backbone, str):
            how = {"users": chosen.rank_users, "n_items": chosen.rank_items}
            name, model = backbone, plain_backbone(data, backbone, seed=chosen.seed, **how)
        others = {name: model}
        progress.finish(f"{name} trained")
    report = judge(
        data, table, student, item_texts, others, users=chosen.rank_users, n_items=chosen.rank_items, seed=chosen.seed
    )
    progress.finish("validation items ranked")
    if report.is_worse and not chosen.write_anyway:
        progress.skip("nothing written")
        raise NotLearntError(
            f"{report.verdict()}. Nothing is written. Give the student more to learn from (texts of the items, more "
            "scored users), use the LLM's table as it is, or write it all the same: write_anyway (--write-anyway).",
            report,
        )
    scored = _scored(data, frame, student, _drawn_pairs(data, table, chosen) if given is None else given)
    extended = pd.concat([frame, scored], ignore_index=True).astype(_whole(frame))
    report = replace(report, frame=extended if given is None else scored, path=path)
    if path is not None:
        content = {"settings": asdict(chosen), **report.content()}
        write_parquet(report.frame, path, {**table.origin, "extension": content})
        write_json(path.with_suffix(".json"), content)
    progress.finish(f"{len(scored)} pairs scored")
    return report


def student_features(
    data: Interactions, texts: VectorSource | None = None, encoder: TextEncoder | str | None = None
) -> tuple[PairFeatures, list[str] | None]:
    """Return what a student sees of pairs, and (n_items,) texts that content ranks by; arguments of `extend_scores`."""
    matrices, item_texts = _matrices(data, texts, find_encoder(encoder) if encoder is not None else None)
    codes = np.arange(data.n_users + 1)
    histories = template_rows(data, codes, split="valid", history_length=HISTORY_LENGTH)["hist_item_id"]
    return PairFeatures(matrices, histories, data.popularity, data.history_length), item_texts


def fit_student(features: PairFeatures, table: ScoreTable, n_users: int, *, folds: int, seed: int) -> Student:
    """Fit a student on the candidates of a table of codes."""
    of_llm = table.candidates
    learnt = of_llm.users[of_llm.user_of_entry].numpy(), of_llm.items.numpy()
    fitted = CrossFitted.fit(features(*learnt), of_llm.scores.numpy(), learnt[0], n_users, folds=folds, seed=seed)
    return Student(features, fitted)


def llm_scores(scores: Any, data: Interactions, folds: int) -> tuple[pd.DataFrame, ScoreTable]:
    """Return the LLM's rows with ids as `data` has them and all columns, and as a table of codes.

    Rows of a student are left out, with a warning. There must be candidates of at least `folds` users.
    """
    if isinstance(scores, str | os.PathLike) and Path(scores).is_dir():
        raise ScoreTableError(f"{scores}: is a folder, which has codes alone. Give the file that it was built of.")
    rows = read_table(as_pandas(scores), "scores", numbers=_NUMBERS, error=ScoreTableError)
    usable = checked(rows)[["user_id", "item_id", "score"]].notna().all(axis=1).to_numpy()
    if "source" in rows.frame:
        usable = usable & (rows.frame["source"] != "student").to_numpy()
    frame = rows.frame[usable].reset_index(drop=True)
    raw_ids = {"user_id": data.user_ids, "item_id": data.item_ids}
    codes = {
        name: encode_ids(frame[name], index, what=name, written=rows.is_text)
        for name, index in (("user_id", data.user_index), ("item_id", data.item_index))
    }
    known = (codes["user_id"] > 0) & (codes["item_id"] > 0)
    if not known.any():
        raise CoverageError(
            f"{rows.name}: none of its {len(rows.frame)} rows is the LLM's score of a user and an item of these "
            "interactions. Give the LLM's table, and the interactions and items whose pairs were scored."
        )
    if not known.all() or not usable.all():
        lost = len(rows.frame) - int(known.sum())
        warnings.warn(
            f"{rows.name}: {lost} of its {len(rows.frame)} rows are not in the extended table: an earlier student's, "
            "without an id or a score, or of a user or item that the interactions and items do not have. Keep the "
            "file if you need them.",
            CoverageWarning,
            stacklevel=3,
        )
    # Ids as the interactions have them: a text file's may be texts that stand for numbers.
    frame = frame[known].assign(**{name: ids[codes[name][known] - 1] for name, ids in raw_ids.items()})
    table = ScoreTable.read(frame, user_index=data.user_index, item_index=data.item_index)
    if len(table.candidates.users) < folds:
        raise CoverageError(
            f"{rows.name} has scores of {len(table.candidates.users)} users, and folds={folds} parts of users are "
            "wanted. Have more users scored."
        )
    origin = {} if isinstance(as_pandas(scores), pd.DataFrame) else read_origin(scores)
    if "kind" not in frame:
        frame = frame.assign(kind="candidate")
    return frame.assign(source="llm"), replace(table, origin={**table.origin, **origin})


def _matrices(
    data: Interactions, texts: VectorSource | None, encoder: TextEncoder | None
) -> tuple[dict[str, Matrix], list[str] | None]:
    """Return vectors of the items by name, and the texts that content ranks by."""
    titles = [""] * data.n_items if data.titles is None else list(data.titles)
    told, own = _texts(data, texts)
    both = [f"{title}. {text}" if title and text else title or text for title, text in zip(titles, told, strict=True)]
    views = {"titles": titles, "texts": told, "titles and texts": both}
    has = {name: any(text.strip() for text in texts) for name, texts in views.items()}
    if not has["titles"] or not has["texts"]:
        del views["titles and texts"]
    matrices: dict[str, Matrix] = {}
    for name, of_items in views.items():
        if has[name]:
            for kind, matrix in text_vectors(of_items, encoder).items():
                matrices[f"{name}, {kind}"] = matrix
    if own is not None:
        matrices["vectors"] = own
    if not matrices:
        raise DataError(
            "nothing says what the items are: no titles and no texts. Give an items file with title, or texts."
        )
    return matrices, both if any(has.values()) else None


def _texts(data: Interactions, texts: VectorSource | None) -> tuple[list[str], np.ndarray | None]:
    """Return the items' texts by code from 1, or vectors by code, (n_items + 1, d)."""
    found = np.full(data.n_items + 1, "", dtype=object)
    if texts is None:
        return list(found[1:]), None
    is_table = not isinstance(texts, Vectors | Mapping) and Path(str(texts)).suffix not in (".npz", ".npy")
    read = texts_in(read_table(as_pandas(texts), "texts")) if is_table else None
    if read is not None:
        codes = encode_ids(read.items["id"], data.item_index, what="item_id", written=read.written)
        found[codes.clip(0)] = read.items["text"]
        found[0] = ""
        if not any(found):
            raise DataError(f"{read.source}: no text is of an item of the catalogue. Give texts about these items.")
        return list(found[1:]), None
    vectors = Vectors.read(texts)
    codes, matrix = vectors.items.by_code(data.item_index, data.n_items + 1, what="items")
    if len(codes) == 0:
        raise DataError(f"{vectors.source}: no vector is of an item of the catalogue. Give vectors of these items.")
    placed = np.zeros((data.n_items + 1, matrix.shape[1]), dtype=np.float32)
    placed[codes] = matrix
    return list(found[1:]), placed


def plain_backbone(
    data: Interactions, name: str, *, seed: int, users: int | None = 1500, n_items: int | None = 300
) -> Any:
    """Train a backbone as the plain model of a comparison, validated on that many users and items."""
    how = RunSettings(valid_users=users, valid_items=n_items)
    return train(
        data,
        how.rows(data, seed),
        ScoreTable.empty(),
        backbone=name,
        config=SelectiveConfig(weight=0.0),
        seed=seed,
        settings=how,
        verbose=False,
    ).model


def _drawn_pairs(data: Interactions, table: ScoreTable, settings: ExtensionSettings) -> pd.DataFrame:
    """Return pairs, ``user, item, kind``: candidates of the chosen users, and their validation items as probes."""
    generator = np.random.default_rng(settings.seed)
    users = np.flatnonzero(data.history_length > 0)
    if settings.users is not None and settings.users < len(users):
        users = np.sort(generator.choice(users, settings.users, replace=False))
    asked = _scored_by_llm(table)
    own = [(part["user"].to_numpy(), part["item"].to_numpy()) for part in (data.train, data.valid)]
    seen = (np.concatenate(codes) for codes in zip(*asked, *own, strict=True))
    unseen = UnseenItems(*seen, n_users=data.n_users, n_items=data.n_items)
    user, item = draw_distinct(unseen, users, settings.items_per_user, generator)
    kind = np.full(len(user), "candidate", dtype=object)
    if settings.probes:
        held_out = data.valid[np.isin(data.valid["user"], users)]
        held_out = held_out[~_among(held_out[["user", "item"]], asked)]
        user, item = np.concatenate([user, held_out["user"]]), np.concatenate([item, held_out["item"]])
        kind = np.concatenate([kind, np.full(len(held_out), "probe", dtype=object)])
    return pd.DataFrame({"user": user, "item": item, "kind": kind})


def _given_pairs(data: Interactions, source: Any) -> pd.DataFrame:
    """Read pairs to be scored: ``user, item, kind``."""
    given = read_table(as_pandas(source), "pairs")
    given.require_columns(["user_id", "item_id"])
    found = {}
    for name, column, index in (("user", "user_id", data.user_index), ("item", "item_id", data.item_index)):
        found[name] = encode_ids(read_ids(given, column), index, what=column, written=given.is_text)
        remedy = "use the files that the pairs were made from"
        given.refuse(found[name] <= 0, column, remedy, problem="which is unknown")
    pairs = pd.DataFrame(found)
    given.refuse(pairs.duplicated(), "item_id", "keep one row a pair", problem="again for the same user")
    is_test, is_valid = (
        pd.MultiIndex.from_frame(pairs).isin(pd.MultiIndex.from_frame(part[["user", "item"]]))
        for part in (data.test, data.valid)
    )
    given.refuse(is_test, "item_id", "delete the row", problem="a test interaction, whose score could leak it")
    return pairs.assign(kind=np.where(is_valid, "probe", "candidate"))


def _scored_by_llm(table: ScoreTable) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the user and item codes of candidates and probes."""
    return [(part.users[part.user_of_entry].numpy(), part.items.numpy()) for part in (table.candidates, table.probes)]


def _among(pairs: pd.DataFrame, asked: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    llm_has = pd.MultiIndex.from_arrays([np.concatenate(codes) for codes in zip(*asked, strict=True)])
    among: np.ndarray = pd.MultiIndex.from_frame(pairs).isin(llm_has)
    return among


def _scored(data: Interactions, frame: pd.DataFrame, student: Student, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the student's rows."""
    user, item = pairs["user"].to_numpy(), pairs["item"].to_numpy()
    positives = data.train.loc[data.train["label"] == 1, ["user", "item"]]
    taken = pd.MultiIndex.from_frame(pairs[["user", "item"]]).isin(pd.MultiIndex.from_frame(positives))
    score, spread = np.empty(len(user)), np.empty(len(user))
    for which, predict in ((~taken, student.predict), (taken, student.predict_taken)):
        if which.any():
            score[which], spread[which] = predict(user[which], item[which])
    made = {
        "user_id": data.user_ids[user - 1],
        "item_id": data.item_ids[item - 1],
        "score": score,
        "kind": pairs["kind"].to_numpy(),
        "spread": spread,
        "source": "student",
    }
    if "n_answers" in frame:
        made["n_answers"] = 0  # as where no answer has the score
    return pd.DataFrame(made)


def draw_distinct(
    unseen: UnseenItems, users: np.ndarray, n: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` different unseen items for each user, or all where there are fewer: users and items, (k,) each."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    width = int(unseen.count[users].max(initial=0))
    take = min(n, width)
    for start in range(0, len(users) if take else 0, step := max(1, _BLOCK // max(width, 1))):
        block = users[start : start + step]
        keys = generator.random((len(block), width), dtype=np.float32)
        keys[np.arange(width) >= unseen.count[block][:, None]] = 2.0  # behind all others
        ranks = np.sort(np.argpartition(keys, take - 1, axis=1)[:, :take], axis=1)
        inside = ranks < unseen.count[block][:, None]
        items = unseen.nth(block, ranks)
        found.append((np.repeat(block, inside.sum(axis=1)), items[inside]))
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([part for part, _ in found]), np.concatenate([part for _, part in found])


def _whole(frame: pd.DataFrame) -> dict[str, str]:
    """Return the types that keep whole numbers whole in columns that the student's rows leave empty."""
    kept = {"prompt_position", "n_answers"} & set(frame.columns)
    return {name: "Int64" for name in kept if pd.api.types.is_integer_dtype(frame[name])}
