"""`sllmr llm-tune`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..datasets.interactions import load_interactions
from ..evaluation.kept import kept_fingerprint, kept_model, kept_training
from ..evaluation.reason_rewards import ReasonRewards
from ..knowledge import EncodedTexts, TextTable
from ..knowledge.vectors import find_encoder
from ..llm_tuning.alignment import alignment_tasks
from ..llm_tuning.correction import CorrectionSettings, tune_corrections
from ..llm_tuning.grpo import GRPOSettings, Question
from ..llm_tuning.local_model import import_libraries
from ..llm_tuning.policy import tune_policy
from ..llm_tuning.profiles import FORM, KIND, read_profiles
from ..llm_tuning.reward import RewardModel, RewardSettings, preferences, tune_reward
from ..llm_tuning.runs import ADAPTER, TuningRun
from ..llm_tuning.sft import TuningSettings, tune_on_answers
from ..llm_tuning.two_turn import Details, ProfileData
from ..scoring.requests import read_data
from ..scoring.text_requests import read_attributes
from .arguments import INTERACTIONS_HELP, add_fields, device, names, positive, settings_of

_EPILOG = """\
Needs `pip install 'sllmr-plugin[llm]'` and, for models of a useful size, a GPU. Each step writes a run folder, goes on
where it was stopped, and ends with LoRA weights in OUT/adapter, which vLLM serves beside the model:
  vllm serve MODEL --enable-lora --lora-modules tuned=OUT/adapter
  sllmr texts --base-url http://localhost:8000/v1 --model tuned ...

RecLM, in this order:
  sllmr llm-tune reclm-sft    --model Qwen/Qwen2.5-3B-Instruct --texts profiles.parquet ... --out runs/sft
  sllmr llm-tune reclm-reward --model Qwen/Qwen2.5-3B-Instruct --texts profiles.parquet ... --out runs/reward
  sllmr llm-tune reclm-policy --model Qwen/Qwen2.5-3B-Instruct --texts profiles.parquet ... --out runs/policy \\
      --adapter runs/sft/adapter --reward runs/reward/adapter
CURec, in this order, with a recommender that sllmr explain has trained on the same texts:
  sllmr llm-tune curec-align   --model Qwen/Qwen2.5-3B-Instruct ... --out runs/aligned
  sllmr llm-tune curec-correct --model Qwen/Qwen2.5-3B-Instruct --texts reasons.parquet ... --out runs/corrected \\
      --adapter runs/aligned/adapter --recommender runs/explained
  sllmr compare ... --texts runs/corrected/corrected.parquet --modes none,curec
Only training interactions are shown to the model. docs/llm_tuning.md has the details.
"""
_PROFILES = "similar users, then profiles; whether the user takes an item of theirs: each answer is learned"
_LORA = {
    "all_linear": "LoRA weights beside every linear layer, and not beside queries and values alone",
    "rank": "of the LoRA weights",
    "alpha": "the low-rank product is multiplied by alpha / rank",
    "lora_dropout": "of the product's input",
}
_RUN = {
    "save_every": "steps between two checkpoints",
    "device": "where the model runs, for instance cuda",
    "seed": "decides new weights, draws and orders",
}
_SUPERVISED = {
    "learning_rate": "at the start; falls to 0 along half a cosine",
    "epochs": "times that each example is seen",
    "batch_size": "examples of a step",
    "max_length": "longest sequence in tokens; longer ones are left out, with a warning",
    **_LORA,
    **_RUN,
}
_POLICY = {
    "group": "answers to each question, which are compared with each other",
    "questions": "questions of a step",
    "max_new_tokens": "longest answer",
    "temperature": "of the sampling; 1 is the model itself",
    "clip": "how far the ratio of a token's new and old probability counts",
    "beta": "weight of the divergence from the model before",
    "updates": "gradient steps on each set of answers",
    "learning_rate": "at the start; falls to 0 along half a cosine",
    "epochs": "times that each question is asked",
    **{name: told for name, told in _LORA.items() if name != "lora_dropout"},
    **_RUN,
}
_CORRECTION = {
    **_POLICY,
    "questions": "interactions of a step, at most: they follow each other in time and share neither user nor item",
    "learning_rate": "at the start; falls to 0 along half a cosine; 0 corrects the texts and tunes nothing",
    "titles": "titles of the user's last training interactions before it that are shown",
    "max_words": "longest text asked for",
    "most": "interactions gone through, the earliest; none takes all that can be",
}
del _CORRECTION["epochs"]  # time goes by once


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Tune a language model of your own on recommendation data: the fine-tuning of RecLM (profiles of users) and of "
        "CURec (which item a user takes next, reasoned out; reasons that a recommender rewards)."
    )
    parser.epilog = _EPILOG
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    _add_step(
        steps,
        "reclm-sft",
        f"tune on conversations of two turns: {_PROFILES}",
        _sft,
        TuningSettings,
        _SUPERVISED,
    )
    _add_step(
        steps,
        "reclm-reward",
        "tune a reward model: a user's own profile above a similar user's and above five kinds of poor ones",
        _reward,
        RewardSettings,
        {**_SUPERVISED, "held_out": "share of the pairs that measures how often the model is right"},
    )
    policy = _add_step(
        steps,
        "reclm-policy",
        "tune by that reward: sampled profiles of each user, the better of them made likelier (GRPO in place of PPO)",
        _policy,
        GRPOSettings,
        _POLICY,
    )
    policy.add_argument(
        "--reward", required=True, metavar="FOLDER", help="the reward model: OUT/adapter of reclm-reward"
    )
    align = _add_step(
        steps,
        "curec-align",
        "tune by policy steps on which of some candidates a user took; the answer's form counts, too",
        _align,
        GRPOSettings,
        _POLICY,
    )
    align.add_argument(
        "--tasks", type=positive, default=1000, metavar="N", help="training interactions (default: 1000)"
    )
    align.add_argument(
        "--negatives", type=positive, default=9, metavar="N", help="candidates beside the item taken (default: 9)"
    )
    correct = _add_step(
        steps,
        "curec-correct",
        "go through training interactions in time order: tune by a recommender's scores of sampled reasons, and write "
        "reason and pattern again",
        _correct,
        CorrectionSettings,
        _CORRECTION,
    )
    correct.add_argument(
        "--texts",
        required=True,
        action="extend",
        type=names,
        metavar="FILE[,FILE]",
        help="text tables with reasons and patterns, those that the recommender was trained with; can be repeated",
    )
    correct.add_argument(
        "--recommender",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the model that gives the rewards: --out of sllmr explain",
    )
    correct.add_argument("--text-model", metavar="NAME", help="what encodes the texts there, as of sllmr explain")
    correct.add_argument(
        "--features",
        type=names,
        default=[],
        metavar="COLUMNS",
        help="columns of the items that the recommender reads: --attributes of sllmr explain",
    )


def _add_step(
    steps: Any,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    settings: type,
    told: dict[str, str],
) -> argparse.ArgumentParser:
    step: argparse.ArgumentParser = steps.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    step.set_defaults(run=run)
    step.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a causal language model: a folder as transformers saves it, a .gguf file, or a name on the hub",
    )
    step.add_argument("--interactions", required=True, metavar="FILE", help=INTERACTIONS_HELP)
    step.add_argument("--items", required=True, metavar="FILE", help="CSV or parquet of the catalogue: item_id, title")
    usual = " (default: category and categories, where they are)" if name == "curec-correct" else ""
    step.add_argument(
        "--attributes",
        type=names,
        metavar="COLUMNS",
        help=f"columns of the items that are shown behind the titles{usual}",
    )
    if name.startswith("reclm"):
        step.add_argument(
            "--texts", required=True, metavar="FILE", help=f"a text table with kind {KIND}, written as '{FORM}'"
        )
        step.add_argument(
            "--neighbours", type=positive, default=3, metavar="N", help="similar users in a question (default: 3)"
        )
        step.add_argument("--users", type=positive, metavar="N", help="so many users (default: all with a profile)")
    if name != "curec-correct":
        step.add_argument(
            "--history-length", type=positive, default=20, metavar="N", help="last titles of each user (default: 20)"
        )
    step.add_argument("--adapter", metavar="FOLDER", help="go on from these LoRA weights: OUT/adapter of another step")
    step.add_argument("--out", required=True, metavar="FOLDER", help="the run folder; the same command goes on in it")
    add_fields(step, settings, told, {"device": {"type": device}})
    return step


def _details(arguments: argparse.Namespace) -> Details | None:
    if not arguments.attributes:
        return None
    values = read_attributes(arguments.items, arguments.attributes).to_numpy().tolist()

    def of(item: int) -> tuple[tuple[str, str], ...]:
        shown = zip(arguments.attributes, values[item - 1], strict=True)
        return tuple((name, value) for name, value in shown if value.strip())

    return of


def _profile_data(arguments: argparse.Namespace) -> ProfileData:
    import_libraries()  # before files are read, which takes longer
    return ProfileData(
        read_data(arguments.interactions, arguments.items),
        read_profiles(arguments.texts),
        neighbours=arguments.neighbours,
        history_length=arguments.history_length,
        details=_details(arguments),
        seed=arguments.seed,
    )


def _sft(arguments: argparse.Namespace) -> None:
    dialogues = _profile_data(arguments).dialogues()[: arguments.users]
    print(f"{len(dialogues)} conversations, {sum(one.taken for one in dialogues)} about an item that the user took")
    settings = TuningSettings(**settings_of(arguments, TuningSettings))
    talk = [one.messages for one in dialogues]
    tune_on_answers(arguments.model, talk, arguments.out, settings, adapter=arguments.adapter)
    _tell(arguments, "loss")


def _reward(arguments: argparse.Namespace) -> None:
    pairs = preferences(_profile_data(arguments).questions()[: arguments.users], seed=arguments.seed)
    print(f"{len(pairs)} pairs of profiles")
    settings = RewardSettings(**settings_of(arguments, RewardSettings))
    _, report = tune_reward(arguments.model, pairs, arguments.out, settings, adapter=arguments.adapter)
    _tell(arguments, "loss")
    print(report)


def _policy(arguments: argparse.Namespace) -> None:
    asked = _profile_data(arguments).questions()[: arguments.users]
    reward = RewardModel.load(arguments.model, arguments.reward, device=arguments.device)

    def question(messages: Any) -> Question:
        return Question(messages, lambda answers: reward.score(messages, answers))

    _tune(arguments, [question(one.messages) for one in asked], f"reward model {arguments.reward}")


def _align(arguments: argparse.Namespace) -> None:
    import_libraries()
    tasks = alignment_tasks(
        read_data(arguments.interactions, arguments.items),
        arguments.tasks,
        negatives=arguments.negatives,
        history_length=arguments.history_length,
        details=_details(arguments),
        seed=arguments.seed,
    )
    _tune(arguments, [task.question() for task in tasks], "form, legality and correctness")


def _correct(arguments: argparse.Namespace) -> None:
    import_libraries()
    settings = CorrectionSettings(**settings_of(arguments, CorrectionSettings))
    training = kept_training(arguments.recommender)
    data = load_interactions(arguments.interactions, arguments.items, attributes=arguments.features)
    table = TextTable.read(arguments.texts, user_index=data.user_index, item_index=data.item_index)
    encoder = find_encoder(arguments.text_model) if arguments.text_model else None
    recommender = kept_model(arguments.recommender, data, EncodedTexts.of(table, encoder), **training)
    result = tune_corrections(
        arguments.model,
        data,
        table,
        ReasonRewards(recommender, data, table, encoder=encoder),
        arguments.out,
        settings,
        rewarded_by=f"recommender {kept_fingerprint(arguments.recommender)}",
        attributes=read_attributes(arguments.items, arguments.attributes),
        adapter=arguments.adapter,
    )
    _tell(arguments, "reward")
    print(result.counts)
    print(f"text table: {result.path}")


def _tune(arguments: argparse.Namespace, questions: list[Question], rewarded_by: str) -> None:
    print(f"{len(questions)} questions, rewarded by {rewarded_by}")
    settings = GRPOSettings(**settings_of(arguments, GRPOSettings))
    tune_policy(arguments.model, questions, arguments.out, settings, rewarded_by=rewarded_by, adapter=arguments.adapter)
    _tell(arguments, "reward")


def _tell(arguments: argparse.Namespace, what: str) -> None:
    """Print how a figure went, the mean of a tenth of the steps at either end."""
    values = [line[what] for line in TuningRun.read(arguments.out)]
    part = max(1, len(values) // 10)
    first, last = (sum(some) / len(some) for some in (values[:part], values[-part:]))
    print(f"{what} of {len(values)} steps: {first:.3f} at first, {last:.3f} at last")
    print(f"LoRA weights: {Path(arguments.out) / ADAPTER}")
