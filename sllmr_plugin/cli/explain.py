"""`sllmr explain`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..datasets.interactions import Interactions, load_interactions
from ..errors import DataError, RunFolderError
from ..evaluation.explain import Explanation, cards_page, explain
from ..evaluation.kept import kept_model
from ..evaluation.model_scores import ItemSide, default_rows_per_block, evaluation_mode, score_items, template_matrix
from ..evaluation.store import write_whole
from ..knowledge import EncodedTexts, TextTable
from ..knowledge.vectors import find_encoder
from ..scores.ids import encode_ids
from ..zoo.deepctr import BACKBONES, check_backbone
from .arguments import INTERACTIONS_HELP, names, positive
from .training import add_training, run_settings

_EPILOG = """\
The first call trains a model in mode curec and keeps it in DIR; the others take it from there. A reason is shown as
another user's, without saying whose. The change of the score is that of hiding the one reason (docs/curec.md).

examples:
  sllmr explain --interactions clicks.csv --items items.csv --texts texts.parquet,reasons.parquet --user 17 \\
      --out runs/explained
      The three items of the highest score among those new to user 17, and the reasons attended to.
  sllmr explain ... --user 17 --item 42 --k 5 --html card.html
      One item, five reasons, and a page with the card.
  sllmr explain ... --user 17 --top 10 --json
      Ten items, for a program.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Show the reasons of other users that a user's pattern attends to, and what they do to scores."
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id[, title]")
    parser.add_argument(
        "--texts",
        required=True,
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="text tables with reasons and patterns, as sllmr texts --kind pattern,reason writes them; can be repeated",
    )
    parser.add_argument("--text-model", metavar="NAME", help="encodes them, as of sllmr compare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the trained model")
    parser.add_argument("--user", required=True, metavar="ID", help="raw id of the user")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--item", metavar="ID", help="raw id of the item")
    which.add_argument(
        "--top",
        type=positive,
        default=3,
        metavar="N",
        help="the N items of the highest score among those that the user has no training interaction with "
        "(default: %(default)s)",
    )
    parser.add_argument("--k", type=positive, default=3, metavar="K", help="reasons an item (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a card an item")
    parser.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"of {', '.join(BACKBONES)} (default: deepfm)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    add_training(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    settings = run_settings(arguments)
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes)
    user = _code(arguments.user, data.user_index, "user")
    item = None if arguments.item is None else _code(arguments.item, data.item_index, "item")
    index = {"user_index": data.user_index, "item_index": data.item_index}
    table = TextTable.read(arguments.texts, **index)
    encoded = EncodedTexts.of(table, find_encoder(arguments.text_model) if arguments.text_model else None)
    name = check_backbone(arguments.backbone, settings.embedding_dim, settings.dropout, settings.model_arguments)

    def report(epoch: int, auc: float) -> None:
        print(f"training, epoch {epoch}: validation AUC {auc:.4f}", file=sys.stderr, flush=True)

    model = kept_model(
        arguments.out, data, encoded, backbone=name, settings=settings, seed=arguments.seed, report=report
    )
    items = [item] if item is not None else _best(model, data, user, arguments.top)
    found = [_explained(model, data, user, code, arguments.k) for code in items]
    if arguments.json:
        print(json.dumps([one.to_json() for one in found], indent=1, ensure_ascii=False))
    else:
        print("\n\n".join(map(str, found)))
    if arguments.html:
        try:
            write_whole(arguments.html, lambda partial: partial.write_text(cards_page(found), encoding="utf-8"))
        except OSError as error:
            raise RunFolderError(f"{arguments.html}: cannot be written ({error}). Choose another file.") from None


def _code(raw: str, index: Any, what: str) -> int:
    code = int(encode_ids(pd.Series([raw]), index, what=f"{what} id", written=True)[0])
    if code < 0:
        raise DataError(f"--{what} {raw}: the interactions and items have no such {what}. Give an id of theirs.")
    return code


def _best(model: Any, data: Interactions, user: int, n: int) -> list[int]:
    """Return the items of the highest score among those that a user has no training interaction with."""
    templates = template_matrix(model, data, np.array([user]), "test")
    codes = torch.arange(1, data.n_items + 1, device=templates.device)
    with evaluation_mode(model):
        rows = default_rows_per_block(model, templates)
        scores = score_items(model, templates, codes[None], ItemSide.of(model, data), rows)[0]
    taken = data.train.loc[data.train["user"] == user, "item"].to_numpy()
    scores[torch.from_numpy(taken - 1).to(scores.device)] = -torch.inf
    return (scores.argsort(descending=True, stable=True)[:n] + 1).tolist()


def _explained(model: Any, data: Interactions, user: int, item: int, k: int) -> Explanation:
    row = template_matrix(model, data, np.array([user]), "test")
    ItemSide.of(model, data).fill(row, torch.tensor([item]))
    x = {name: row[0, first:end].cpu().numpy() for name, (first, end) in model.feature_index.items()}
    title = "" if data.titles is None else data.titles.iloc[item - 1]
    index = {"user_index": data.user_index, "item_index": data.item_index}
    raw_user, raw_item = data.user_ids.tolist()[user - 1], data.item_ids.tolist()[item - 1]
    return explain(model, raw_user, raw_item, k, x=x, title=title, **index)
