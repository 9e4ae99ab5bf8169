"""`sllmr attributes`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.attributes import AttributeResult, AttributeSettings, propose_vocabulary, write_attributes
from .arguments import add_fields, names, settings_of
from .asking import add_limits, add_model

_EPILOG = """\
The vocabulary is YAML or JSON, a line an attribute: `genre:pipe: [action, puzzle]` where an item may have several
values, `audience: [children, adults]` where it has one. Answers go into a ledger as those of sllmr score do: after any
interruption, the same command continues where it stopped and pays for no answer twice. Another vocabulary asks again.

examples:
  sllmr attributes --items items.csv --vocabulary vocabulary.yaml --propose
      One request: a vocabulary from 200 titles, written to vocabulary.yaml. Read it, and edit it.
  sllmr attributes --items items.csv --vocabulary vocabulary.yaml --out items_sorted.parquet --dry-run
      What would be asked, how many tokens, how many dollars.
  sllmr attributes --items items.csv --vocabulary vocabulary.yaml --out items_sorted.parquet --max-cost 2
      The items with a column an attribute, for 2 dollars at most.

next: sllmr compare --items items_sorted.parquet --attributes genre:pipe,audience ...
"""
_WHAT = {
    "attributes": "columns of --items that are shown with an item's title (default: category and categories, where "
    "they are)",
    "sample": "titles that --propose shows",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Have a language model choose the values of named attributes for every item, from a closed vocabulary, and "
        "write the items with a column an attribute."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--items", required=True, metavar="FILE", help="CSV or parquet: item_id, title[, category]")
    parser.add_argument("--vocabulary", required=True, type=Path, metavar="FILE", help="YAML or JSON: names and values")
    parser.add_argument("--out", type=Path, metavar="FILE", help="parquet: the items with the new columns")
    parser.add_argument(
        "--propose", action="store_true", help="have a vocabulary proposed from titles, write it to --vocabulary, stop"
    )
    group = parser.add_argument_group("what is asked")
    add_model(group, max_tokens="as long as every value of the vocabulary")
    add_fields(group, AttributeSettings, _WHAT, {"attributes": {"type": names, "metavar": "COLUMNS"}})
    add_limits(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments, AttributeSettings)
    if arguments.propose:
        found = propose_vocabulary(arguments.items, out=arguments.vocabulary, **settings)
        print(f"{found.words()}\nVocabulary: {arguments.vocabulary}. Read and edit it, then run without --propose.")
        return 0
    if arguments.out is None:
        raise SystemExit("sllmr attributes: give --out, the file to be written (or --propose)")
    result = write_attributes(
        arguments.items, arguments.vocabulary, out=arguments.out, dry_run=arguments.dry_run, **settings
    )
    print(result)
    return int(isinstance(result, AttributeResult) and not result.complete)
