"""`sllmr tune`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..datasets.interactions import load_interactions
from ..errors import ConfigError
from ..evaluation.differences import BASELINE
from ..evaluation.modes import Mode
from ..evaluation.trials import SCALES
from ..evaluation.tune import TuneResult, tune
from ..zoo.deepctr import BACKBONES
from .arguments import add_data, flag_of, names, positive, read_overrides
from .start import (
    add_refinement,
    add_start,
    add_triples,
    check_refinement,
    encoder_of,
    read_refinement,
    read_start,
    read_triples,
)
from .training import add_training, run_settings, training_flags

_PARTS = "init"

_EPILOG = """\
Trial 0 is the plain model, trial 1 the default config, the others are drawn at random from a small grid:
  gate         open (no gate), fixed, budget; with probes in the score table also disagreement, bilevel
  uncertainty  confidence, entropy; with --dropout also mc_dropout
  weight       0.05, 0.1, 0.2, 0.4, 0.8
  margin       three values that suit the loss
  scale        with --initialise: 0.1, 0.3, 0.5 (--initialise-scale holds it)
All trials have the same seeds and batches, and the config of highest mean validation AUC is chosen. A finished run is
in DIR/trials.json; the same command given again takes up where it stopped, and more --trials or --seeds add to what is
there. DIR/chosen.yaml is what was chosen. Test interactions are not looked at: `sllmr compare --config` does that.

With --initialise all trials but the plain model start from vectors of the items, trial 2 without a regularizer. With
--texts and --parts kar, llm_cf or curec they read texts, in the same way.

examples:
  sllmr tune --interactions clicks.csv --scores llm_scores.parquet --out runs/tune
  sllmr tune ... --backbone din --rank-items 200 --out runs/tune_din
  sllmr tune ... --set gate=disagreement --set loss=hinge --out runs/tune_hinge
      Hold the gate, choose the rest; the loss is never searched, only held.
  sllmr tune ... --initialise titles --out runs/tune_init
      Choose for a model whose embeddings start from the titles, and the scale of the start.
  sllmr tune ... --initialise titles --parts align --out runs/tune_align
  sllmr tune ... --texts reasons.parquet --parts curec --out runs/tune_curec
  sllmr tune ... --initialise titles --texts reasons.parquet --parts init+curec --out runs/tune_both
  sllmr tune ... --synthetic synthetic.parquet --parts synthetic --out runs/tune_synthetic
  sllmr tune ... --trials 24 --seeds 3 --out runs/tune
      Go on with a search.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Train one backbone with a dozen configs and choose the one of highest validation AUC."
    parser.epilog = _EPILOG
    add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the search")
    parser.add_argument(
        "--backbone", default="deepfm", metavar="NAME", help=f"of {', '.join(BACKBONES)} (default: deepfm)"
    )
    parser.add_argument("--trials", type=positive, default=12, metavar="N", help="configs tried (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, default=2, metavar="N", help="seeds 0 to N-1 (default: %(default)s)")
    parser.add_argument(
        "--search-seed", type=int, default=0, metavar="N", help="seed of the draw of trials (default: %(default)s)"
    )
    add_start(
        parser,
        "which all trials but the plain one start from",
        scale=f"default: searched, {', '.join(f'{scale:g}' for scale in SCALES)}",
    )
    parser.add_argument(
        "--parts",
        metavar="PART[+PART]",
        help="what vectors, texts and rows do: init, align, distill, similar, pretrain, sid, embed (vectors), kar, "
        "llm_cf, curec, reclm (texts), triples, graph (triples), synthetic, denoised, refined (rows) or some of them, "
        f"as in modes of sllmr compare (default: {_PARTS})",
    )
    parser.add_argument(
        "--texts",
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="tables of LLM-written texts, as of sllmr compare, for --parts kar, llm_cf, curec or reclm",
    )
    add_triples(parser, "for --parts triples and graph")
    add_refinement(parser)
    add_training(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    given = (arguments.initialise, arguments.texts, arguments.triples, arguments.synthetic, arguments.interest)
    if arguments.parts is not None and all(one is None for one in given):
        raise ConfigError(
            "--parts says what vectors, texts, triples and rows do; give some with --initialise, --texts, --triples, "
            "--synthetic or --interest, or leave it out."
        )
    parts = arguments.parts or _PARTS
    encoder = encoder_of(arguments, "--initialise", "--texts")
    start = read_start(arguments, [Mode.of(parts)], encoder=encoder)
    check_refinement(arguments)
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.attributes)
    result = tune(
        data,
        arguments.scores,
        out=arguments.out,
        backbone=arguments.backbone,
        n_trials=arguments.trials,
        seeds=arguments.seeds,
        search_seed=arguments.search_seed,
        settings=run_settings(arguments),
        config_overrides=read_overrides(arguments.overrides),
        start=start,
        parts=parts,
        refinement=read_refinement(arguments, data),
        scales=None if arguments.initialise_scale is None else [arguments.initialise_scale],
        texts=arguments.texts,
        encoder=encoder,
        triples=read_triples(arguments),
    )
    print(result)
    print(f"\nChosen config: {result.config_file}; all trials: {arguments.out / 'trials.json'}")
    if result.chosen.parts:
        print(f"Chosen {'start' if arguments.initialise else 'parts'}: {result.chosen.start}")
    if result.chosen.mode != BASELINE:
        print(f"\nMeasure it on the test part:\n  {_compare_command(arguments, result)}")
    if result.config.active:
        print(f'or use it: wrap(..., config=SelectiveConfig.from_yaml("{result.config_file}"))')


def _compare_command(arguments: argparse.Namespace, result: TuneResult) -> str:
    """Return the command that compares the chosen config with the plain model, with the same data and sizes."""
    command = ["sllmr", "compare", "--interactions", arguments.interactions]
    command += ["--items", arguments.items] if arguments.items else []
    command += ["--attributes", ",".join(arguments.attributes)] if arguments.attributes else []
    command += ["--scores", arguments.scores, "--backbone", result.backbone]
    command += ["--config", str(result.config_file)] if result.config.active else []
    if (chosen := result.chosen).parts:
        modes = dict.fromkeys([BASELINE, "+".join(chosen.parts), chosen.mode])
        command += ["--modes", ",".join(modes)]
        command += ["--initialise", arguments.initialise] if arguments.initialise else []
        command += ["--texts", ",".join(arguments.texts)] if arguments.texts else []
        command += ["--triples", arguments.triples] if arguments.triples else []
        command += ["--triples-columns", ",".join(arguments.triples_columns)] if arguments.triples_columns else []
        for name in ("synthetic", "interest", "synthetic_weight", "keep_probes"):
            value = getattr(arguments, name)
            command += [flag_of(name), str(value)] if value is not None else []
        command += ["--initialise-scale", f"{chosen.scale:g}"] if chosen.scale is not None else []
        for name in ("initialise_users", "initialise_method", "text_model"):
            value = getattr(arguments, name)
            command += [flag_of(name), value] if value is not None else []
    return shlex.join([*command, *training_flags(run_settings(arguments)), "--out", str(arguments.out / "test")])
