"""What a report says in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..comparison import below_untrained
from ..modes import Mode

_NO_BREAK = "\N{NO-BREAK SPACE}"
STRATA = {"all": "all test interactions", "cold": "cold users", "tail": "long-tail items"}


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Say of each backbone in a sentence what the best way to train it brought, and what it asks for.

    Parameters
    ----------
    summary : mapping
        As `summarise` makes it.

    Returns
    -------
    list of str
        A sentence a backbone; none where there is no plain model to compare with. A gain is claimed only of an
        interval that leaves out zero.
    """
    found = []
    whole = [d for d in summary["differences"] if d["stratum"] == "all" and not d["label"]]
    aucs = {(row["backbone"], row["mode"]): row["mean"] for row in summary["levels"] if row["stratum"] == "all"}
    for backbone in dict.fromkeys(d["backbone"] for d in whole):
        own = [d for d in whole if d["backbone"] == backbone]
        gains = [d for d in own if d["clear"] and d["mean"] > 0]
        if not gains:
            found.append(f"{backbone}: no way of training that was compared is clearly better than the plain model.")
            continue
        best = max(gains, key=lambda d: d["mean"])
        served = "needs further inputs" if Mode.of(best["mode"]).served else "needs what the plain model needs"
        found.append(
            f"{backbone} trained with {best['mode']} ranks at AUC {aucs[backbone, best['mode']]:.4f} where the plain "
            f"model has {aucs[backbone, 'none']:.4f}: {interval(best, signed=True)}. To serve it {served}"
            f"{_slower(summary['pace'], backbone, best['mode'])}."
        )
    if max((sum(d["backbone"] == b for d in whole) for b in {d["backbone"] for d in whole}), default=0) > 1:
        found.append("Named is the best of several on these very test interactions, which flatters it a little.")
    return found


def _slower(pace: Sequence[Mapping[str, Any]], backbone: str, mode: str) -> str:
    ratios = [row["ratio"] for row in pace if (row["backbone"], row["mode"]) == (backbone, mode)]
    return f"; an epoch of training takes {ratios[0]:.2f} times as long" if ratios and ratios[0] is not None else ""


def cost(summary: Mapping[str, Any]) -> list[str]:
    """Say what the scores cost, where their file has it."""
    origin = (summary["inputs"] or {}).get("origin", {})
    parts = [origin, *(part for part in origin.values() if isinstance(part, Mapping))]
    costs = [part["cost"] for part in parts if isinstance(part.get("cost"), (int, float))]
    return [f"The scores cost ${costs[0]:.2f}."] if costs else []


def headline(differences: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Say of each mode where it is better than the plain model, where worse, and where nobody can tell.

    Parameters
    ----------
    differences : sequence of mapping
        Fields of `Difference` and ``clear``. Only the whole, cold users and long-tail items are told.

    Returns
    -------
    list of (str, list of str)
        A mode and a sentence a stratum. A gain or loss is claimed only of intervals that leave out zero.
    """
    found = []
    for mode in dict.fromkeys(d["mode"] for d in differences):
        own = [d for d in differences if d["mode"] == mode and not d["label"]]
        sentences = [_sentence(name, [d for d in own if d["stratum"] == key]) for key, name in STRATA.items()]
        found.append((mode, [sentence for sentence in sentences if sentence]))
    return found


def _sentence(stratum: str, differences: Sequence[Mapping[str, Any]]) -> str:
    if not differences:
        return ""
    clear = [d for d in differences if d["clear"]]
    parts = [
        ("AUC is higher than the plain model's", [d for d in clear if d["mean"] > 0]),
        ("AUC is lower than the plain model's", [d for d in clear if d["mean"] <= 0]),
        ("no clear difference, the interval holds zero", [d for d in differences if not d["clear"] and _judged(d)]),
        ("too few users for an interval", [d for d in differences if not _judged(d)]),
    ]
    several = len(differences) > 1
    told = [f"{says}: {', '.join(_gain(d, several) for d in group)}" for says, group in parts if group]
    return f"{stratum[0].upper()}{stratum[1:]}: {'; '.join(told)}."


def _judged(difference: Mapping[str, Any]) -> bool:
    return difference["low"] is not None


def _gain(difference: Mapping[str, Any], several: bool) -> str:
    name = f"{difference['backbone']} " if several else ""
    return name + interval(difference, signed=True)


def interval(values: Mapping[str, Any], *, signed: bool = False) -> str:
    """Write ``mean [low, high]``; signed for differences, ``-`` where there is no mean."""
    form = "+.4f" if signed else ".4f"
    if values["mean"] is None:
        return "-"
    if values["low"] is None:
        return f"{values['mean']:{form}}"
    mean, low, high = (format(values[key], form) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]".replace(" ", _NO_BREAK)


def certainty(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what the intervals are for."""
    if not differences:
        return ["There is no run in mode none to compare with, so there are no differences."]
    seeds = max(len(d["seeds"]) for d in differences)
    what = (
        f"Intervals are 95%, for new users and new seeds, from {seeds} seeds; users are resampled whole."
        if seeds > 1
        else "Intervals are 95%, for new users and these models: one seed cannot tell how much another would differ."
    )
    return [what, "Of many intervals, about one in twenty leaves out the truth."]


def compared(summary: Mapping[str, Any]) -> list[str]:
    """Say what was compared, on what, and by which measure."""
    runs, inputs = summary["runs"], summary["inputs"]
    backbones, modes, seeds = (list(dict.fromkeys(run[key] for run in runs)) for key in ("backbone", "mode", "seed"))
    first = runs[0]
    sentences = [
        f"{_count(len(backbones), 'backbone')} ({', '.join(backbones)}), {_count(len(modes), 'way')} to train, "
        f"{_count(len(seeds), 'seed')} ({', '.join(map(str, seeds))}): {_count(len(runs), 'run')}."
    ]
    if inputs:
        data = inputs["interactions"]
        sentences.append(
            f"The data have {data['users']:,} users and {data['items']:,} items, with {data['train']:,} interactions "
            f"to train, {data['validation']:,} to validate and {data['test']:,} to test; {data['cold_users']:,} users "
            f"are cold (few training interactions) and {data['tail_items']:,} items long-tail (the least popular)."
        )
    if inputs and "texts" in inputs and {"kar", "llm_cf"} & set(modes):
        sentences.append(texts_told(inputs["texts"]))
    if inputs and "texts" in inputs and any("curec" in mode.split("+") for mode in modes):
        sentences.append(reasons_told(inputs["texts"]))
    against = (
        f"{first['test_items']} items drawn at random from those" if first["test_items"] else "all items"
    ) + " that its user has not interacted with"
    sentences.append(
        f"AUC is the share of items that a test interaction is ranked above, against {against}, averaged over "
        f"{first['n_test']:,} test interactions, {first['n_cold']:,} of cold users and {first['n_tail']:,} of "
        "long-tail items. 0.5 is chance, 1 is perfect."
    )
    errors = [run["sampling_error"]["auc"] for run in runs if run["sampling_error"]]
    if errors:
        sentences.append(f"The draw of items gives each run's AUC a standard error of at most {max(errors):.4f}.")
    if first["n_undefined"]:
        left_out = first["n_undefined"]
        sentences.append(f"{left_out:,} interactions are left out: their users have seen the whole catalogue.")
    return sentences


def texts_told(texts: Mapping[str, Any]) -> str:
    """Say which texts there were, and what the exemplars of LLM-CF are."""
    n_exemplars = texts["n_taken"] + texts["n_not_taken"]
    exemplars = (
        f"LLM-CF's exemplars are {n_exemplars:,} interactions with reasoning about them"
        if n_exemplars
        else "LLM-CF's exemplars are drawn, without reasoning about them"
    )
    writer = f"written by {texts['model']}" if texts["model"] else "and their file does not say who wrote them"
    return f"Texts are of {texts['n_users']:,} users and {texts['n_items']:,} items, {writer}; {exemplars}."


def reasons_told(texts: Mapping[str, Any]) -> str:
    """Say what CURec attends to."""
    patterns = (
        f"the patterns of {texts['n_patterns']:,} users attend"
        if texts["n_patterns"]
        else f"the texts of {texts['n_users']:,} users, which stand for patterns, attend"
    )
    writer = f"written by {texts['model']}" if texts["model"] else "whose file does not say who wrote them"
    return f"In CURec {patterns} to {texts['n_reasons']:,} reasons, {writer}, never to those about the user."


def gate_basis(summary: Mapping[str, Any]) -> list[str]:
    """Say what the gate of mode ``gated`` rested on; nothing where there is no such run, or it is not recorded."""
    if summary["inputs"] is None or not any(run["mode"] == "gated" for run in summary["runs"]):
        return []
    kind = summary["settings"]["config"]["gate"]
    probes = summary["inputs"]["scores"]["n_probes"]
    if kind == "auto":
        kind = "disagreement" if probes else "fixed"
    if kind in ("disagreement", "bilevel"):
        return [f"The gate rested on {_count(probes, 'probe')}: held-out items that the LLM scored without knowing."]
    rule = "open for cold users and long-tail items" if kind == "fixed" else "trained on the loss that it weighs"
    return [f"The gate was {kind} ({rule}), on no evidence of where the LLM is right: that is an assumption about it."]


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """Say what must not be overlooked."""
    origin = (summary["inputs"] or {}).get("origin", {})
    found = [origin["note"]] if "note" in origin else []
    if "corrupted" in origin:
        found.append(f"The scores were made wrong on purpose ({origin['corrupted']}): they do not measure the LLM.")
    aucs: dict[str, list[float]] = {}
    for run in summary["runs"]:
        aucs.setdefault(f"{run['backbone']} {run['mode']}", []).append(run["auc"])
    pooled = {f"{row['backbone']} {row['mode']}": [row["ctr_auc"]["mean"]] for row in summary["labelled"]}
    pooled = {name: pooled[name] for name in aucs if name in pooled}  # what needs no training is a row there, too
    below = [*below_untrained(aucs, summary["untrained"]), *below_untrained(pooled, summary["untrained"], "ctr_auc")]
    found += [f"{text[0].upper()}{text[1:]}." for text in below]
    runs = {mode: sum(run["mode"] == mode for run in summary["runs"]) for mode in {r["mode"] for r in summary["runs"]}}
    if len(set(runs.values())) > 1:
        counts = ", ".join(f"{mode} {count}" for mode, count in sorted(runs.items()))
        found.append(f"The comparison is not finished, or modes have different seeds: runs by mode are {counts}.")
    return found


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number != 1 else ''}"
