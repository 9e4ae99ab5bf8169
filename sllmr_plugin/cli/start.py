"""Flags of `Start`, of triples and of `Refinement`: what parts of modes read beside texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..backends.initialise import DEFAULT_SCALE, METHODS, USERS
from ..backends.synthetic import DEFAULT_WEIGHT
from ..datasets.interactions import Interactions
from ..errors import ConfigError
from ..evaluation.modes import Mode, Start, check_start_fields
from ..evaluation.refinement import Refinement
from ..knowledge import TextEncoder
from ..knowledge.triples import Triples
from ..knowledge.vectors import find_encoder
from .arguments import names, rate

_FIELDS = {"scale": "initialise_scale", "users": "initialise_users", "method": "initialise_method"}


def add_start(parser: argparse.ArgumentParser, purpose: str, *, scale: str = f"default: {DEFAULT_SCALE:g}") -> None:
    """Add ``--initialise``, what goes with it, and ``--text-model``; `read_start` and `encoder_of` read them.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    purpose : str
        What the vectors are for, after "vectors of the items".
    scale : str
        What ``--initialise-scale`` is where it is not given.
    """
    parser.add_argument(
        "--initialise",
        metavar="titles|FILE",
        help=f"vectors of the items, {purpose}: the titles of --items, a text table of sllmr texts (put behind the "
        "titles), or vectors of your own (docs/initialise.md)",
    )
    # What is not given is None, so that a flag that nothing reads can be refused even with the value of the default.
    parser.add_argument(
        "--initialise-scale",
        type=rate,
        metavar="X",
        help=f"root mean square of an item's row in modes with init ({scale})",
    )
    parser.add_argument(
        "--initialise-users",
        choices=USERS,
        help="where users come from in modes with init or embed: the mean of their training items, their own vectors, "
        "or nowhere (default: auto, the mean; with embed, their own vectors where they have some)",
    )
    parser.add_argument(
        "--initialise-method",
        choices=METHODS,
        help="how vectors become rows in modes with init: their principal components, at random, or as who took what "
        f"teaches (default: {METHODS[0]})",
    )
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="encode texts with this model of sentence-transformers; use takes the universal sentence encoder of "
        "sllmr-plugin[encoder] (default: TF-IDF and SVD, nothing to download)",
    )


def add_triples(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--triples`` and what goes with it; `read_triples` reads them."""
    parser.add_argument(
        "--triples",
        metavar="FILE",
        help=f"statements about items, {purpose}: a table head, relation, tail[, confidence] by item id, or a table of "
        "items with attributes, as sllmr attributes writes it (docs/families.md)",
    )
    parser.add_argument(
        "--triples-columns",
        type=names,
        default=[],
        metavar="COLUMN[,COLUMN]",
        help="of a table of items, the columns that are attributes: brand,genre:pipe (default: those that sllmr "
        "attributes wrote)",
    )


def read_triples(arguments: argparse.Namespace) -> Triples | None:
    """Return what the arguments of `add_triples` say; None without ``--triples``.

    Raises
    ------
    ConfigError
        If columns are named of no table.
    DataError
        If the table cannot be used.
    """
    if arguments.triples is None:
        if arguments.triples_columns:
            raise ConfigError("--triples-columns goes with --triples; give that, too.")
        return None
    return Triples.read(arguments.triples, attributes=arguments.triples_columns)


def add_refinement(parser: argparse.ArgumentParser) -> None:
    """Add ``--synthetic``, ``--interest`` and what goes with them; `read_refinement` reads them."""
    parser.add_argument(
        "--synthetic",
        metavar="FILE",
        help="synthetic interactions, as sllmr synthesize writes them, for modes synthetic and refined",
    )
    parser.add_argument(
        "--interest",
        metavar="FILE",
        help="P(interest) of synthetic and training interactions, probes and random candidates (sllmr interest), for "
        "modes denoised and refined",
    )
    parser.add_argument(
        "--synthetic-weight",
        type=rate,
        metavar="X",
        help=f"of the loss of synthetic rows (default: {DEFAULT_WEIGHT:g})",
    )
    parser.add_argument(
        "--keep-probes",
        type=rate,
        metavar="X",
        help="share of the probes that the threshold on P(interest) keeps (default: Youden's J, as sllmr interest)",
    )


def check_refinement(arguments: argparse.Namespace) -> None:
    """Raise `ConfigError` if a flag of `add_refinement` is given without the file that it goes with."""
    for flag, file in (("synthetic_weight", "synthetic"), ("keep_probes", "interest")):
        if getattr(arguments, flag) is not None and getattr(arguments, file) is None:
            raise ConfigError(f"--{flag.replace('_', '-')} goes with --{file}; give that, too, or leave it out.")


def read_refinement(arguments: argparse.Namespace, data: Interactions) -> Refinement | None:
    """Return what the arguments of `add_refinement` say; None without a file."""
    check_refinement(arguments)
    if arguments.synthetic is None and arguments.interest is None:
        return None
    return Refinement.read(
        data,
        synthetic=arguments.synthetic,
        interest=arguments.interest,
        weight=arguments.synthetic_weight or DEFAULT_WEIGHT,
        keep_probes=arguments.keep_probes,
    )


def encoder_of(arguments: argparse.Namespace, *sources: str) -> TextEncoder | None:
    """Return what ``--text-model`` names, None where it names nothing.

    Parameters
    ----------
    arguments : argparse.Namespace
        As parsed.
    *sources : str
        Flags whose files have texts to encode, such as ``--initialise``.

    Raises
    ------
    ConfigError
        If a model is named, and none of `sources` is given.
    """
    if not arguments.text_model:
        return None
    if not any(getattr(arguments, source.strip("-")) for source in sources):
        raise ConfigError(f"--text-model encodes what {' and '.join(sources)} read; give one, or leave it out.")
    return find_encoder(arguments.text_model)


def read_start(
    arguments: argparse.Namespace, modes: Sequence[Mode], *, encoder: TextEncoder | None = None
) -> Start | None:
    """Return what the arguments of `add_start` say; None without ``--initialise``.

    Parameters
    ----------
    arguments : argparse.Namespace
        As parsed.
    modes : sequence of Mode
        What is trained.
    encoder : TextEncoder or None, default=None
        As `encoder_of` returns it.

    Raises
    ------
    ConfigError
        If a flag is given without ``--initialise``, or that no mode reads.
    """
    values = {field: getattr(arguments, flag) for field, flag in _FIELDS.items()}
    given: dict[str, Any] = {field: value for field, value in values.items() if value is not None}
    if arguments.initialise is None:
        if given:
            raise ConfigError("--initialise-scale, -users and -method go with --initialise; give that, too.")
        return None
    if any(mode.needs("vectors") for mode in modes):  # else nothing reads any of it, which `compare` says
        check_start_fields(modes, given)
    return Start.read(arguments.initialise, arguments.items, encoder=encoder, **given)
