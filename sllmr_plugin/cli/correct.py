"""`sllmr correct`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..datasets.interactions import load_interactions
from ..evaluation.kept import kept_model
from ..evaluation.reason_rewards import ReasonRewards
from ..knowledge import EncodedTexts, TextTable
from ..knowledge.vectors import find_encoder
from ..scores.origin import check_parquet_path
from ..scoring.correct import CorrectionResult, CorrectSettings, correct_reasons
from ..zoo.deepctr import BACKBONES, check_backbone
from .arguments import INTERACTIONS_HELP, add_fields, names, settings_of
from .asking import add_limits, add_server
from .training import add_training, run_settings

_EPILOG = """\
The training interactions that --texts has a reason about are gone through in time order. Of each, -n reasons are asked
for; the model in --recommender, trained in mode curec as sllmr explain does, scores the interaction with each of them;
the best takes the place of the old one, and the user's pattern is written again. No language model is tuned. What is
shown are titles of training interactions before the one in question, never held-out ones.

Answers go into a ledger as those of sllmr texts do: after any interruption, the same command continues where it stopped
and pays for no answer twice. The key is read from OPENAI_API_KEY.

examples:
  sllmr correct --interactions clicks.csv --items items.csv --texts reasons.parquet --recommender runs/explained \\
      --out corrected.parquet --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr correct ... --recommender runs/explained --out corrected.parquet --max-cost 5
      For 5 dollars at most, earlier runs with this ledger included; what is not reached stays as it is.
  sllmr correct ... -n 8 --base-url http://localhost:8000/v1 --model my-model
      The best of eight, by a server of your own.

next: sllmr compare ... --modes none,curec --texts corrected.parquet
"""
_ASKED = {
    "temperature": "of the model; none leaves it to the server",
    "max_tokens": "longest answer; none sets no limit, models that think first need more (default: 100 + 4 a word of "
    "--max-words)",
    "attempts": "how often to ask if the answer cannot be used; the error is fed back",
    "extra_body": "what else each request holds, for servers that take it, as of sllmr texts (default: nothing)",
}
_WHAT = {
    "titles": "titles of the user's last training interactions before it",
    "reason_template": "a prompt of your own, kind reason: docs/texts.md (default: the built-in one)",
    "update_template": "a prompt of your own for patterns that are updated (default: the built-in one)",
    "shown_attributes": "columns of --items that are shown with an item's title, such as brand,category (default: "
    "category and categories, where they are)",
    "max_words": "longest text asked for",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Have reasons written again, several for each interaction, in time order; keep the one that a trained model "
        "scores best, and update the user's pattern (CURec's correction as best-of-n, docs/curec.md)."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument(
        "--items", required=True, metavar="FILE", help="CSV or parquet of the catalogue: item_id, title[, category]"
    )
    parser.add_argument(
        "--texts",
        required=True,
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="text tables with reasons and patterns, as sllmr texts --kind pattern,reason writes them; can be repeated",
    )
    parser.add_argument(
        "--recommender",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the model that gives the rewards, as --out of sllmr explain, with the same flags; it is "
        "trained if it is not there",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet: the corrected text table")
    options = {"shown_attributes": {"type": names, "metavar": "COLUMNS"}}
    group = parser.add_argument_group("what is asked")
    group.add_argument(
        "-n", type=int, default=CorrectSettings.n, metavar="N", help="reasons an interaction (default: %(default)s)"
    )
    add_server(group, CorrectSettings, _ASKED)
    add_fields(group, CorrectSettings, _WHAT, options)
    add_limits(parser, CorrectSettings)
    training = parser.add_argument_group("the model that gives the rewards, where it is not trained yet")
    training.add_argument("--text-model", metavar="NAME", help="encodes the texts, as of sllmr compare")
    training.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"of {', '.join(BACKBONES)} (default: deepfm)"
    )
    training.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    add_training(parser, overrides=False)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    chosen = settings_of(arguments, CorrectSettings)
    settings = CorrectSettings(**chosen)
    check_parquet_path(arguments.out, (arguments.interactions, *arguments.texts))
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes)
    table = TextTable.read(arguments.texts, user_index=data.user_index, item_index=data.item_index)
    if arguments.dry_run:
        print(correct_reasons(data, arguments.items, table, None, out=arguments.out, dry_run=True, **chosen))
        return 0
    settings.server().client()  # a missing key is reported before anything is trained
    encoder = find_encoder(arguments.text_model) if arguments.text_model else None
    sizes = run_settings(arguments)
    name = check_backbone(arguments.backbone, sizes.embedding_dim, sizes.dropout, sizes.model_arguments)

    def report(epoch: int, auc: float) -> None:
        print(f"training, epoch {epoch}: validation AUC {auc:.4f}", file=sys.stderr, flush=True)

    encoded = EncodedTexts.of(table, encoder)
    model = kept_model(
        arguments.recommender, data, encoded, backbone=name, settings=sizes, seed=arguments.seed, report=report
    )
    rewards = ReasonRewards(model, data, table, encoder=encoder)
    result = correct_reasons(data, arguments.items, table, rewards, out=arguments.out, **chosen)
    print(result)
    return int(isinstance(result, CorrectionResult) and not result.complete)
