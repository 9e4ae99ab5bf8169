"""Score with a language model on your own machine, and with a Python object of your own.

    python examples/score_with_local_server.py --base-url http://localhost:8000/v1 --model my-model

Any server that speaks OpenAI's chat completions will do: vLLM (``vllm serve``), llama.cpp (``llama-server``), Ollama
(``http://localhost:11434/v1``). No key is needed. Run it twice: the second run asks nothing, all answers are in the
ledger. Without --base-url only the second half runs: a scorer of one method, here one that counts common words.
"""

import argparse
import tempfile
from pathlib import Path

from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.scoring import draw_candidates, score_candidates


class CommonWords:
    """A scorer of your own needs one method: scores in [0, 1] by item id. Leave out what you cannot score."""

    def score(self, request):
        known = {word for title in request.history for word in title.lower().split()}
        words = {item: set(title.lower().split()) for item, title in zip(request.item_ids, request.titles, strict=True)}
        return {item: len(own & known) / len(own) for item, own in words.items() if own}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", help="for instance http://localhost:8000/v1")
    parser.add_argument("--model", default="my-model", help="as the server calls it")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="folder (default: a temporary one)")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())

    data = demo_paths().interactions, demo_paths().items
    candidates = draw_candidates(*data, users=arguments.users, per_user=8)

    if arguments.base_url:
        server = {"base_url": arguments.base_url, "model": arguments.model, "concurrency": 4}
        print(score_candidates(candidates.frame, *data, out=folder / "llm_scores.parquet", **server))

    print(score_candidates(candidates.frame, *data, out=folder / "own_scores.parquet", scorer=CommonWords()))
    print(f"Tables: {folder}")


if __name__ == "__main__":
    main()
