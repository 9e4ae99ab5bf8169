"""Score offline with a model on your own GPUs: vLLM under Ray Data, no server, no key.

    pip install 'sllmr-plugin[ray]' 'ray[llm]'
    python examples/score_with_ray_vllm.py --model Qwen/Qwen2.5-7B-Instruct --gpus 1 --out runs/offline

Ray Data renders the prompts, feeds one vLLM engine for each of --gpus, and parses what comes back. Every answer is
committed to a ledger as it arrives: stop the job, start it again, and only the rest is asked for. Answers that cannot
be used are asked for again in a second and third round, with the error fed back. A row that fails in the engine is
left to the next start.

It needs a GPU and the model's weights, so the project's tests do not run it whole. They do run the prompts, the parser
and the rounds over a Ray data set with a stand-in for the engine, and build the engine's configuration. What only you
can see is whether your version of vLLM takes the model and the JSON schema, and how fast it is.
"""

import argparse
from pathlib import Path

from sllmr_plugin.datasets.demo import demo_paths
from sllmr_plugin.datasets.interactions import load_interactions
from sllmr_plugin.scoring.candidates import draw_candidates
from sllmr_plugin.scoring.ledger import Ledger
from sllmr_plugin.scoring.questions import Questions
from sllmr_plugin.scoring.ray import BatchStages, score_in_rounds
from sllmr_plugin.scoring.requests import plan_requests
from sllmr_plugin.scoring.table import build_score_table, write_score_table


def engine_config(model, gpus):
    """One engine a GPU. Prompts share their beginning, which prefix caching computes once."""
    from ray.data.llm import vLLMEngineProcessorConfig

    return vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={"max_model_len": 8192, "enable_prefix_caching": True},
        concurrency=gpus,
        batch_size=64,
        should_continue_on_error=True,
    )


def engine(model, gpus, stages):
    """Return what turns rows of questions into rows of answers."""
    import ray
    from ray.data.llm import build_processor

    processor = build_processor(
        engine_config(model, gpus), preprocess=stages.preprocess, postprocess=stages.postprocess
    )
    return lambda rows: processor(ray.data.from_items(rows)).iter_rows()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="name or folder of the weights")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args()

    data = load_interactions(demo_paths().interactions, demo_paths().items)
    candidates = draw_candidates(data, users=arguments.users)
    requests = plan_requests(candidates.frame, data)
    questions = Questions(arguments.model)
    stages = BatchStages(questions)
    with Ledger(arguments.out / "answers.sqlite") as ledger:
        received = score_in_rounds(requests, stages, ledger, engine(arguments.model, arguments.gpus, stages))
        scored = build_score_table(requests, questions.stored_answers(requests, ledger))
    write_score_table(
        scored,
        arguments.out / "llm_scores.parquet",
        scorer="vllm",
        model=arguments.model,
        prompt_hash=questions.template.prompt_hash,
    )
    print(f"{received} answers received")
    print(scored.counts)


if __name__ == "__main__":
    main()
