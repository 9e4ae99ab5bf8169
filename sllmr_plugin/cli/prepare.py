"""`sllmr prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..datasets.preparing import COLUMNS, PrepareSettings, prepare
from ..settings import choices_of
from .arguments import names, share

_EPILOG = """\
Nothing is downloaded: fetch the files first (docs/data.md says where, and has the command of every data set of the
model zoo). They may stay gzipped. DIR gets interactions.csv, items.csv and prepared.json: what was read, left out and
counted, with checksums. It gets all of them, or none if something is wrong.

formats, and what they are read for:
  amazon2014   reviews_NAME_5.json.gz: reviewerID, asin, overall, unixReviewTime
               meta_NAME.json.gz (Python dicts): asin, title, categories, brand
  amazon2023   NAME.jsonl.gz: user_id, parent_asin, rating, timestamp
               meta_NAME.jsonl.gz: parent_asin, title, main_category, categories, store
  movielens1m  ratings.dat, movies.dat, users.dat: fields separated by ::, latin-1
  recbole      NAME.inter, NAME.item, NAME.user: tab-separated, line 1 such as user_id:token<tab>item_id:token
  csv          user_id, item_id[, rating][, timestamp or position]; items: item_id[, title] and any others.
               --column user_id=reviewer says what the files call a column.

what is done, in this order:
  1. lines are read; malformed ones are counted, and more than --max-bad-share of them are an error
  2. interactions rated below --min-rating are left out
  3. of interactions that repeat a user and an item the earliest is kept
  4. users and items with fewer than --k-core interactions are left out, until none is left to leave out
  5. the rest is put in order of time, ties in the order of the file, and split
  6. with --negatives, rows of label 0 are drawn: never anything the user has, in any split, and nothing twice.
     Without, the training draws new negatives for every seed, which is what you want in most cases.

examples:
  sllmr prepare amazon2014 --reviews reviews_Beauty_5.json.gz --meta meta_Beauty.json.gz --out data/amazon_beauty
  sllmr prepare amazon2023 --reviews Video_Games.jsonl.gz --meta meta_Video_Games.jsonl.gz --out data/games
  sllmr prepare movielens1m --reviews ratings.dat --meta movies.dat --users users.dat --min-rating 4 --out data/ml
  sllmr prepare recbole --reviews ml-100k.inter --meta ml-100k.item --column title=movie_title --out data/ml100k
  sllmr prepare csv --reviews clicks.csv --column user_id=visitor --split time --test-share 0.2 --out data/mine
  sllmr prepare csv --reviews ratings_Beauty.csv --header user_id,item_id,rating,timestamp --out data/beauty_all

next: sllmr candidates --interactions DIR/interactions.csv --items DIR/items.csv --users 1000 --out candidates.parquet
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Turn the raw files of Amazon Reviews, MovieLens 1M, RecBole or a CSV of your own into "
        "interactions with splits, and items with titles."
    )
    parser.epilog = _EPILOG
    formats = choices_of(PrepareSettings, "format")
    parser.add_argument("format", choices=formats, metavar="FORMAT", help=", ".join(formats))
    parser.add_argument("--reviews", required=True, metavar="FILE", help="the interactions, plain or gzipped")
    parser.add_argument("--meta", metavar="FILE", help="the items; without this file no item has a title")
    parser.add_argument("--users", metavar="FILE", help="the users, where the format has a file of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the prepared files")
    _add_choices(parser)
    _add_table_form(parser)
    parser.set_defaults(run=_run)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is kept, and how it is split")
    group.add_argument(
        "--k-core",
        type=int,
        default=5,
        metavar="K",
        help="keep users and items with at least K interactions with each other; 0 keeps all (default: 5)",
    )
    group.add_argument("--min-rating", type=float, metavar="X", help="leave out what is rated lower, or not at all")
    group.add_argument(
        "--split",
        choices=choices_of(PrepareSettings, "split"),
        default="leave-last-out",
        help="leave-last-out: a user's last interaction is test, the one before it valid; time: the latest "
        "interactions of all users, so that some users and items have none to train on; period: the first "
        "of two periods, whose latest interactions are valid, and all of the second in test; none: no column "
        "(default: leave-last-out)",
    )
    for name in ("test", "valid"):
        group.add_argument(
            f"--{name}-share",
            type=share,
            default=0.1,
            metavar="X",
            help=f"share of the interactions in {name}, for --split time"
            f"{', of the first period for --split period' * (name == 'valid')} (default: 0.1)",
        )
    group.add_argument(
        "--boundary",
        type=float,
        metavar="T",
        help="for --split period: the time at which the second one begins, in the unit of the file (default: the "
        "middle)",
    )
    group.add_argument(
        "--negatives", type=int, default=0, metavar="N", help="rows of label 0 for each interaction (default: 0)"
    )
    group.add_argument(
        "--negative-sampling",
        choices=choices_of(PrepareSettings, "negative_sampling"),
        default="uniform",
        help="any item alike, or by the number of training interactions (default: uniform)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="decides the negatives (default: 0)")
    group.add_argument(
        "--max-bad-share",
        type=float,
        default=0.01,
        metavar="X",
        help="accepted malformed lines, as a share of a file's lines (default: 0.01)",
    )


def _add_table_form(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the form of the files")
    group.add_argument(
        "--file-format",
        choices=choices_of(PrepareSettings, "file_format"),
        default="csv",
        help="of the prepared files (default: csv)",
    )
    group.add_argument("--replace", action="store_true", help="replace prepared files that are in DIR already")
    group.add_argument(
        "--column",
        action="append",
        type=_renaming,
        default=[],
        metavar="NAME=THEIRS",
        help=f"csv and recbole: what the files call one of {', '.join(COLUMNS)}; can be repeated",
    )
    group.add_argument(
        "--header", type=names, metavar="NAMES", help="csv: the columns of --reviews, if its line 1 does not name them"
    )
    group.add_argument(
        "--delimiter",
        type=_delimiter,
        metavar="C",
        help="csv and recbole: between two fields, or tab (default: a comma; recbole: as line 1 shows)",
    )


def _renaming(text: str) -> tuple[str, str]:
    own, equals, theirs = text.partition("=")
    if not (own and equals and theirs):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=THEIRS, such as user_id=visitor")
    return own, theirs


def _delimiter(text: str) -> str:
    return "\t" if text in ("tab", "\\t") else text


def _run(arguments: argparse.Namespace) -> None:
    fields = {
        name: getattr(arguments, name)
        for name in PrepareSettings.__dataclass_fields__
        if name not in ("format", "columns")
    }
    prepared = prepare(
        arguments.format,
        arguments.reviews,
        arguments.out,
        meta=arguments.meta,
        users=arguments.users,
        replace=arguments.replace,
        verbose=True,
        columns=dict(arguments.column),
        **fields,
    )
    print(prepared)
    print(f"\nnext: sllmr candidates --interactions {prepared.interactions} --items {prepared.items} --out ...")
