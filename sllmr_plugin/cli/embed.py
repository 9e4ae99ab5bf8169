"""`sllmr embed`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scoring.embeddings.write import EmbeddingResult, EmbedSettings, embed_texts
from .arguments import settings_of
from .asking import add_limits, add_server

_EPILOG = """\
Answers go into a ledger as those of sllmr score do: after any interruption, the same command continues where it stopped
and never pays for a text twice, even if it is sent beside other texts. The key is read from OPENAI_API_KEY.

examples:
  sllmr embed --items items.csv --texts llm_texts.parquet --out vectors.parquet --dry-run
      How many tokens titles and descriptions have, and how many dollars they would cost.
  sllmr embed --items items.csv --out vectors.parquet
      Titles alone.
  sllmr embed --texts llm_texts.parquet --base-url http://localhost:8000/v1 --model my-model --out vectors.parquet
      Descriptions alone, and profiles of users where there are some, with a server of your own.

next: sllmr compare ... --initialise vectors.parquet --modes none,init,init+gated
"""


_WHAT = {
    "attempts": "how often to ask if the vectors cannot be used",
    "extra_body": 'what else each request holds, for servers that take it: \'{"input_type": "document"}\'; another '
    "value asks again (default: nothing)",
    "dimensions": "length of the vectors, for models that offer several (default: the server's)",
    "batch_size": "texts a request",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Have titles of items and LLM-written texts embedded by a server with an OpenAI-compatible /v1/embeddings, and "
        "write the vectors that embeddings can start from: kind, id, vector."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--items", metavar="FILE", help="CSV or parquet of the catalogue: item_id, title")
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="text table, as of sllmr texts: kind, id, text; with --items, titles are put before the texts",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet: kind, id, vector")
    add_server(parser.add_argument_group("what is asked"), EmbedSettings, _WHAT)
    add_limits(parser, EmbedSettings)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    result = embed_texts(
        arguments.items,
        arguments.texts,
        out=arguments.out,
        dry_run=arguments.dry_run,
        **settings_of(arguments, EmbedSettings),
    )
    print(result)
    return int(isinstance(result, EmbeddingResult) and not result.complete)
