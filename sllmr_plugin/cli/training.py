"""Flags of `RunSettings`: types, choices, defaults and checks come from its fields."""

from __future__ import annotations

import argparse

from ..datasets.protocols import FULL_RANKING, LLM_CF
from ..evaluation.training import PROTOCOL_SETTINGS, QUICK, RunSettings
from .arguments import PROTOCOL_HELP, add_fields, device, flag_of, names, reader_of, word_of

_HELP = {
    "protocol": PROTOCOL_HELP,
    "epochs": "epochs per run",
    "patience": "stop when so many epochs in a row have not raised the validation AUC; none trains all epochs",
    "embedding_dim": "length of the embedding vectors",
    "batch_size": "rows per training step",
    "batches": "of rows in random order, or of users with their interactions, in which pairs of a user meet (Algorithm "
    "1; docs/reproduce.md)",
    "adaptors": "sizes of the modes kar and llm_cf: the defaults here, or those of their authors, with LLM-CF's "
    "reconstruction loss",
    "learning_rate": "of Adam",
    "l2": "weight of the L2 penalty on embeddings; none is the library's own",
    "negatives": "sampled negatives per positive; unused if the data have their own",
    "negatives_by": "how they are drawn",
    "redraw": "draw other negatives in every epoch",
    "dropout": "dropout rate of the backbone's deep part; uncertainty mc_dropout needs one",
    "histories": "every backbone reads the user's history of items and attributes; without, DIN and DIEN that of items",
    "history_length": "last interactions in a history",
    "valid_users": "users ranked to choose the epoch; none ranks all",
    "device": "a torch device such as cuda:0",
}


def _defaults(name: str) -> str:
    """Say what a field's default is under the protocol, where that is another."""
    usual, own = (getattr(settings, name) for settings in (RunSettings(), RunSettings.of_protocol(LLM_CF)))
    if own == usual or name == "protocol":
        return ""
    return f" (default: {word_of(usual)}; {word_of(own)} with --protocol {LLM_CF})"


def add_training(parser: argparse.ArgumentParser, *, overrides: bool = True) -> None:
    """Add the sizes of training and validation; `run_settings` reads them. ``--attributes`` is for `load_interactions`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    overrides : bool, default=True
        Add ``--set`` as well, which `read_overrides` reads, for commands that train with the regularizer.
    """
    parser.add_argument(
        "--attributes",
        type=names,
        default=[],
        metavar="COLUMN[,COLUMN]",
        help="columns of --items that every backbone takes as features; genres:pipe (or space, comma, ;) where an item "
        "has several values (docs/zoo.md)",
    )
    told = {name: f"{says}{_defaults(name)}" for name, says in _HELP.items()}
    # What is not given is not there, since its default depends on --protocol and --quick.
    options = {name: {"default": argparse.SUPPRESS} for name in _HELP if name != "protocol"}
    add_fields(parser, RunSettings, told, options | {"device": options["device"] | {"type": device}})
    parser.add_argument(
        "--quick",
        action="store_true",
        help="three epochs with one negative, unless their flags say otherwise: for trials, not for figures",
    )
    parser.add_argument(
        "--rank-items",
        type=reader_of(RunSettings, "valid_items"),
        metavar="N",
        help="rank each user's held-out items against N unseen items drawn at random: an "
        "unbiased estimate of full-ranking AUC for slow backbones (default: all items)",
    )
    if overrides:
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            dest="overrides",
            help="a field of SelectiveConfig, for instance weight=0.2; can be repeated",
        )


def run_settings(
    arguments: argparse.Namespace, *, test_users: int | None = None, test_items: int | None = None
) -> RunSettings:
    """Return what the arguments of `add_training` say, with the sizes of a test ranking if a test is ranked."""
    given = {name: getattr(arguments, name) for name in _HELP if hasattr(arguments, name)}
    base = {**PROTOCOL_SETTINGS[arguments.protocol], **(QUICK if arguments.quick else {})}
    sizes = {"test_users": test_users, "test_items": test_items, "valid_items": arguments.rank_items}
    return RunSettings(**{**base, **given, **sizes})


def training_flags(settings: RunSettings) -> list[str]:
    """Return the flags that `run_settings` reads as the same training; what has its default is left out."""
    flags = [] if settings.protocol == FULL_RANKING else [flag_of("protocol"), settings.protocol]
    defaults = RunSettings.of_protocol(settings.protocol)
    for name in _HELP:
        value = getattr(settings, name)
        if value == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            flags.append(flag_of(name) if value else flag_of(f"no_{name}"))
        else:
            flags += [flag_of(name), word_of(value)]
    return [*flags, *(["--rank-items", str(settings.valid_items)] if settings.valid_items else [])]
