"""`sllmr interest`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from ..datasets.interactions import Interactions, load_interactions
from ..datasets.interest import DENOISE_SHARE, Interest, pairs_to_judge
from ..datasets.synthetic import SyntheticInteractions
from ..errors import ConfigError, CoverageError, InterestError
from ..scores.origin import check_parquet_path, write_parquet
from .arguments import INTERACTIONS_HELP, positive, share

_EPILOG = f"""\
First what has to be judged is written (--pairs): the synthetic rows, the training interactions, held-out validation
interactions as probes, and random candidates. Then a judge says P(interest) of each pair, a language model by the
log-probabilities of yes and no, or the student of one. Then --interest sets a threshold on the probes, and says how
good the judge is and what would be dropped. No test interaction is judged.

examples:
  sllmr interest --interactions clicks.csv --items items.csv --synthetic synthetic.parquet --pairs to_judge.parquet
  sllmr score --candidates to_judge.parquet --interactions clicks.csv --items items.csv --answer yes_no \\
      --out interest.parquet --max-cost 2
      A language model judges.
  sllmr extend --scores llm_scores.parquet --interactions clicks.csv --items items.csv --pairs to_judge.parquet \\
      --out interest.parquet
      Or a student of the language model's scores does, for nothing.
  sllmr interest --interactions clicks.csv --items items.csv --synthetic synthetic.parquet --interest interest.parquet
      The judge's AUC, the threshold, what is dropped: synthetic rows below it, and of the training interactions the
      lowest, at most {DENOISE_SHARE:.0%}.

next: sllmr compare ... --modes none,synthetic,refined --synthetic synthetic.parquet --interest interest.parquet
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Write the pairs that have to be judged for filtering synthetic rows and denoising training rows, or say what "
        "a table of P(interest) makes of them."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the whole catalogue: item_id[, title]")
    parser.add_argument("--synthetic", metavar="FILE", help="synthetic interactions, as sllmr synthesize writes them")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pairs", type=Path, metavar="FILE", help="parquet to write: the pairs to be judged")
    what.add_argument(
        "--interest", metavar="FILE", help="P(interest) of these pairs: user_id, item_id, score in [0, 1]"
    )
    drawn = parser.add_argument_group("with --pairs")
    drawn.add_argument(
        "--probes", type=positive, default=1000, metavar="N", help="validation interactions (default: %(default)s)"
    )
    drawn.add_argument(
        "--candidates-per-probe", type=positive, default=2, metavar="N", help="random items (default: %(default)s)"
    )
    drawn.add_argument(
        "--training",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also the training interactions, which denoising needs (default: True)",
    )
    drawn.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")
    judged = parser.add_argument_group("with --interest")
    judged.add_argument(
        "--keep-probes",
        type=share,
        metavar="X",
        help="set the threshold so that this share of the probes is kept (default: where the share of probes kept is "
        "farthest above that of random candidates kept, Youden's J)",
    )
    judged.add_argument("--out", type=Path, metavar="FILE", help="parquet: the synthetic rows that are kept")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    data = load_interactions(arguments.interactions, arguments.items)
    synthetic = SyntheticInteractions.of(arguments.synthetic, data) if arguments.synthetic else None
    in_use = (arguments.interactions, arguments.items, arguments.synthetic, arguments.interest)
    if arguments.pairs is not None:
        path = check_parquet_path(arguments.pairs, in_use)
        frame = pairs_to_judge(
            data,
            synthetic=synthetic,
            probes=arguments.probes,
            candidates_per_probe=arguments.candidates_per_probe,
            training=arguments.training,
            seed=arguments.seed,
        )
        write_parquet(frame, path, {"pairs": frame["what"].value_counts().to_dict()})
        counts = ", ".join(f"{number} {what}" for what, number in frame["what"].value_counts().items())
        print(f"{len(frame)} pairs to judge: {counts}\nPairs: {path}")
        print(f"next: sllmr score --candidates {path} --answer yes_no ..., or sllmr extend --pairs {path} ...")
        return
    if arguments.out is not None and synthetic is None:
        raise ConfigError("--out is for the synthetic rows that are kept; give --synthetic, too.")
    interest = Interest.of(arguments.interest, data, synthetic=synthetic, keep_probes=arguments.keep_probes)
    print(interest)
    if synthetic is not None:
        kept = interest.filtered(data, synthetic)
        print(f"synthetic: {len(kept)} of {len(synthetic)} rows kept")
        if arguments.out is not None:
            _write(data, kept, arguments.out, in_use)
    try:
        doubted = interest.doubted(data)
    except (InterestError, CoverageError) as error:
        print(f"training: {error}")
    else:
        print(f"training: {len(doubted)} of {doubted.judged} judged interactions are doubted")


def _write(data: Interactions, kept: SyntheticInteractions, out: Path, in_use: tuple) -> None:
    path = check_parquet_path(out, in_use)
    raw = {"user_id": data.user_ids[kept.users - 1], "item_id": data.item_ids[kept.items - 1]}
    frame = pd.DataFrame({**raw, "weight": kept.weights, "source": "filtered"})
    write_parquet(frame, path, {"filtered": kept.source})
    print(f"Kept: {path}")
