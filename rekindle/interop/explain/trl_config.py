"""Options of a run, and its rewards, from what TRL 1.16 reads beside and in its `GRPOConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rekindle.core.advantages import GroupNormalized
from rekindle.interop.explain.given import Given
from rekindle.interop.explain.wanted import Change, shape
from rekindle.methods.dapo import Overlong
from rekindle.train.aliases import SAME_VALUE

OVERLONG = (1280, 256)
"""The length and the cache of `get_soft_overlong_punishment` where a configuration names it."""
GRADED, PENALTY = "accuracy_reward", "get_soft_overlong_punishment"
LORA = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
"""TRL's adapters where `use_peft` is true and no more is said."""
TEXTS = {
    **{"model_name_or_path": "model", "dataset_name": "data", "dataset_config": "data_config"},
    **{"dataset_train_split": "data_split", "output_dir": "out"},
}


def config_of(given: Given) -> dict[str, Any]:
    """Options of the run."""
    found = {SAME_VALUE[name]: value for name, value in _sampling(given).items() if value is not None}
    if given.has("bf16"):
        found["precision"] = "bf16" if given.truth("bf16") else "full"
    else:
        given.left.append("precision: full here; TRL's default is bf16=True")
    if given.has("seed"):
        found["seed"] = given.whole("seed", least=0)
    found |= {ours: str(given.take(name)) for name, ours in TEXTS.items() if given.has(name)}
    if given.truth("use_vllm"):
        found["rollout.sampler"] = "vllm"
        found |= {} if given.truth("vllm_importance_sampling_correction", True) else {"vllm.correct": False}
    if given.truth("mask_truncated_completions"):
        given.refused("mask_truncated_completions", "cut-off responses stay in the loss here")
    return found | _adapters(given)


def _sampling(given: Given) -> dict[str, Any]:
    """TRL's name -> the value, None where it is not said."""
    top_k = given.whole("top_k", least=-1)
    return {
        "temperature": given.above("temperature"),
        "top_p": given.above("top_p", most=1.0),
        "top_k": None if top_k is None else max(top_k, 0),  # -1 is vLLM's own word for all
        "max_completion_length": given.whole("max_completion_length"),
        "num_generations": given.whole("num_generations"),
        "gradient_checkpointing": given.truth("gradient_checkpointing")
        if given.has("gradient_checkpointing")
        else None,
    }


def _adapters(given: Given) -> dict[str, Any]:
    """Low-rank adapters, which TRL has where `use_peft` is true only."""
    if not given.truth("use_peft"):
        for name in LORA:
            if given.has(name):
                given.refused(name, "TRL does not use it without use_peft: true")
        return {}
    if given.number("lora_dropout", LORA["lora_dropout"]):
        given.means.append("use_peft: TRL's lora_dropout is 0.05 unless said; adapters have no dropout here")
    rank, alpha = given.whole("lora_r", LORA["lora_r"]), given.above("lora_alpha") or LORA["lora_alpha"]
    return {"lora.rank": rank, "lora.alpha": float(alpha)}


def rewards(given: Given, config: dict[str, Any], advantage: Any) -> dict[str, Change]:
    """Reward functions: our own grading for accuracy_reward, the penalty for length, files by their path.

    Files are put into `config`. advantage: of the record; one that divides by the deviation takes a lone weight out.
    """
    names = given.take("reward_funcs", [])
    names = [str(name) for name in names] if isinstance(names, list) else [str(names)]
    weights = given.reals("reward_weights") or [1.0] * len(names)
    if len(weights) != len(names):
        raise given.wrong("reward_weights", f"a list of {len(names)} numbers")
    found: dict[str, Change] = {}
    for name, weight in zip(names, weights, strict=True):
        file, _, function = name.rpartition(".")
        path = Path(file.replace(".", "/") + ".py")
        if name == PENALTY and config.get("rollout.max_tokens") == OVERLONG[0]:
            found[name] = shape(Overlong(cache_share=OVERLONG[1] / OVERLONG[0], factor=weight))
        elif file and path.is_file():
            config["reward"] = (*config.get("reward", ()), f"{path}:{function}" + ("" if weight == 1 else f"={weight}"))
        elif name != GRADED:
            given.refused("reward_funcs", f"{name} is no file of ours: name it by --reward FILE.py:function")
    if GRADED in names:
        _graded(given, weights[names.index(GRADED)], alone=len(names) == 1, files="reward" in config, by=advantage)
    elif found and "reward" not in config:
        given.means.append(f"{PENALTY} is taken off the task's own grading here: TRL adds no other reward to it")
    return found


def _graded(given: Given, weight: float, *, alone: bool, files: bool, by: Any) -> None:
    """Note what becomes of accuracy_reward, which is the task's own grading, of weight 1, where no file replaces it."""
    if files:
        why = "functions of files replace the task's own grading: put the grading into a file"
        given.refused("reward_funcs", f"{GRADED}, of weight {weight:g}, is left out: {why}")
        return
    given.means.append(f"{GRADED} is the task's own grading here (grading.by=math compares as TRL does)")
    divided = alone and weight > 0 and isinstance(by, GroupNormalized) and by.std != "none"
    if weight != 1 and divided:
        given.means.append(f"reward_weights={weight:g} is taken out again by the deviation of the group: 1 here")
    elif weight != 1:
        given.refused("reward_weights", f"{GRADED} has weight 1 here: give a file of your own, with a weight")
