"""`sllmr extend`."""

from __future__ import annotations

import argparse

from ..errors import NotLearntError
from ..evaluation.extend import ExtensionSettings, extend_scores
from .arguments import INTERACTIONS_HELP, add_fields, settings_of

_EPILOG = """\
The student is gradient-boosted trees on what can be counted without the LLM: similarities of an item's texts and those
of the user's history, popularity, the length of the history. It learns from the table's candidates; probes never teach,
and a user whom the LLM has scored is predicted by a student that has not seen that user. Test interactions are not
looked at.

The table that is printed says whether this is worth anything: how far the student agrees with the LLM on users it has
not seen, and how it ranks validation items against the catalogue beside popularity, content and both, which cost
nothing. If the student ranks clearly below the best of them, nothing is written and the exit code is 2;
--write-anyway writes.

examples:
  sllmr extend --scores llm_scores.parquet --interactions clicks.csv --items items.csv --out extended.parquet
      By titles: all users, 100 items of the catalogue each, every validation item as a probe.
  sllmr extend ... --texts llm_texts.parquet
      By titles and by the descriptions of sllmr texts, which say more.
  sllmr extend ... --users 20000 --items-per-user 30
      Fewer users and items.
  sllmr extend ... --backbone deepfm
      The student has to beat a plain DeepFM, too, which is trained first (minutes).

next: sllmr compare ... --scores extended.parquet --modes none,gated
"""
_HELP = {
    "users": "users who get scores, drawn at random (default: all with a training interaction)",
    "items_per_user": "items of each, drawn uniformly from the catalogue",
    "probes": "score every validation item of these users as a probe, for the gate",
    "folds": "parts that the scored users are dealt into; each is predicted by a student of the others",
    "rank_users": "validation users ranked to judge the student; none takes all",
    "rank_items": "items drawn for each of them; none takes the catalogue",
    "write_anyway": "write the table even if the student ranks worse than what costs nothing",
    "seed": "decides all draws, and the student",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Learn the LLM's judgement from the users that it has scored, say how well that went, and score further users "
        "and items for nothing: a score table of any size from a few hundred paid answers."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "--scores", required=True, metavar="FILE", help="the LLM's scores: user_id, item_id, score[, kind]"
    )
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id, title")
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="descriptions of the items, as sllmr texts writes them, or vectors of your own (docs/initialise.md)",
    )
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="encode titles and texts with this model of sentence-transformers, or use, the universal sentence encoder "
        "(default: TF-IDF and SVD, nothing to download)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="parquet: the LLM's rows as they are, the student's behind them, source (llm or student) and spread; what "
        "is printed goes beside it as JSON",
    )
    parser.add_argument("--backbone", metavar="NAME", help="train this one, too, and have the student beat it")
    parser.add_argument(
        "--pairs",
        metavar="FILE",
        help="score these pairs in place of drawn ones: user_id, item_id, for instance of sllmr interest --pairs; "
        "training interactions as if they had not been made",
    )
    add_fields(parser, ExtensionSettings, _HELP)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    try:
        extension = extend_scores(
            arguments.scores,
            arguments.interactions,
            arguments.items,
            out=arguments.out,
            texts=arguments.texts,
            encoder=arguments.text_model,
            backbone=arguments.backbone,
            pairs=arguments.pairs,
            **settings_of(arguments, ExtensionSettings),
        )
    except NotLearntError as error:
        print(error.report)
        raise
    print(extension)
