"""TRL's configuration (1.16: `GRPOConfig`, and what `trl grpo --config` takes besides) as a wanted record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean, TokenMean
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Cosine, Linear, Warmup
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.interop.explain.given import Given
from rekindle.interop.explain.trl_parts import EPS
from rekindle.interop.explain.wanted import Change, Wanted, rate, shape, slot, term
from rekindle.methods import grpo
from rekindle.methods.cispo import CappedWeight
from rekindle.methods.dapo import Overlong
from rekindle.methods.entropy_adaptive import AdaptiveBonus, FollowEntropy, entropy_coef
from rekindle.methods.forking_tokens import TopEntropy
from rekindle.methods.sapo import SoftGate
from rekindle.train.aliases import SAME_VALUE

MEANS: Mapping[str, Any] = {
    **{"dapo": TokenMean(), "bnpo": TokenMean(), "grpo": SequenceMean(), "dr_grpo": FixedLength()},
    **{"cispo": TokenMean(), "sapo": SequenceMean()},
}
"""loss_type -> what it averages by."""
OVERLONG = (1280, 256)
"""The length and the cache of `get_soft_overlong_punishment` where a configuration names it."""
COPIED = ("temperature", "top_p", "top_k", "max_completion_length", "num_generations", "gradient_checkpointing")
NUMBERS = ("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm")
DEFAULTS = {
    **{"learning_rate": 1e-6, "weight_decay": 0.0, "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.999},
    **{"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion_length": 512, "num_generations": 8},
    **{"gradient_checkpointing": True, "num_iterations": 1, "bf16": True, "seed": 42},
    **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "lr_scheduler_type": "linear"},
}
"""What TRL takes where a configuration does not say."""


def wanted(given: Given) -> Wanted:
    """The record and the options that the configuration asks for; what is not understood is noted in `given`."""
    base = replace(grpo.method(), objective=_objective(given), aggregate=_mean(given), advantage=_advantage(given))
    sizes, descent = _sizes(given, base.descent)
    base = replace(base, descent=_numbers(given, descent))
    config = {**_config(given), **sizes}
    return Wanted(base=base, optional={**_terms(given), **_schedule(given), **_rewards(given, config)}, config=config)


def _objective(given: Given) -> Any:
    kind, width = given.text("loss_type", "dapo"), given.number("epsilon", 0.2)
    high = given.number("epsilon_high", width)
    level = given.text("importance_sampling_level", "token")
    warm, cool = given.number("sapo_temperature_pos", 1.0), given.number("sapo_temperature_neg", 1.05)
    dual = given.number("delta")
    dual = None if dual is None else float(dual)
    own: dict[str, Any] = {
        "cispo": lambda: CappedWeight(low=0.0, high=float(high)),
        "sapo": lambda: SoftGate(tau_up=float(warm), tau_down=float(cool)),
    }
    if kind in own:
        return own[kind]()
    if level not in ("token", "sequence"):
        raise given.wrong("importance_sampling_level", "token or sequence")
    return Clip(low=round(1 - width, 12), high=round(1 + high, 12), dual=dual, level=level)  # type: ignore[arg-type]


def _mean(given: Given) -> Any:
    kind = given.text("loss_type", "dapo")
    if kind not in MEANS:
        given.refused("loss_type", "no such loss here: left at dapo, the mean over tokens")
    if kind == "bnpo":
        given.means.append("loss_type=bnpo averages over each micro-batch in TRL; here over the minibatch")
    mean = MEANS.get(kind, TokenMean())
    mode, cap = given.text("vllm_importance_sampling_mode", "sequence_mask"), 3.0
    cap = given.number("vllm_importance_sampling_clip_max", cap)
    correct = given.truth("vllm_importance_sampling_correction", True)
    if not given.truth("use_vllm") or not correct:
        return mean
    level, _, how = mode.partition("_")
    if level not in ("token", "sequence") or how not in ("mask", "truncate"):
        raise given.wrong("vllm_importance_sampling_mode", "token_ or sequence_ with mask or truncate")
    return SamplerWeighted(inner=mean, level=level, cap=float(cap), mask=how == "mask")  # type: ignore[arg-type]


def _advantage(given: Given) -> Any:
    how = given.text("scale_rewards", "group")
    if how in ("none", "false"):
        return GroupNormalized(std="none")
    if how not in ("group", "true"):
        given.refused("scale_rewards", "no such scale here: left at group")
    return GroupNormalized(eps=EPS)


def _terms(given: Given) -> dict[str, Change]:
    """KL, entropy and the tokens that are kept: each may be left out where no method has it beside the rest."""
    found: dict[str, Change] = {}
    beta, bonus = given.number("beta", 0.0), given.number("entropy_coef", 0.0)
    corrected = given.truth("use_bias_correction_kl", True)
    if beta:
        mean = MEANS.get(given.text("loss_type", "dapo"), TokenMean())
        found[f"beta={beta}"] = term(KLToReference(coef=float(beta), aggregate=mean))
        if corrected:
            given.means.append("beta: TRL multiplies its KL by the ratio (use_bias_correction_kl), ours is the KL")
    target, step = given.number("entropy_target", 0.2), given.number("entropy_coef_delta", 0.005)
    if given.truth("use_adaptive_entropy"):
        follow = FollowEntropy(target=float(target), delta=float(step))
        found["use_adaptive_entropy=true"] = lambda record: replace(
            term(AdaptiveBonus())(record), source=(entropy_coef,), after=(follow,)
        )
    elif bonus:
        found[f"entropy_coef={bonus}"] = term(EntropyBonus(float(bonus)))
    share = given.number("top_entropy_quantile", 1.0)
    if share < 1:
        found[f"top_entropy_quantile={share}"] = slot(keep=(TopEntropy(share=float(share)),))
        given.means.append("top_entropy_quantile: TRL divides by all tokens, ours by those kept")
    return found


def _schedule(given: Given) -> dict[str, Change]:
    """The learning rate's scheduler, over TRL's updates there and over our steps here."""
    kind, lr = given.text("lr_scheduler_type", "constant"), given.number("learning_rate", DEFAULTS["learning_rate"])
    share, more = given.number("warmup_steps", given.number("warmup_ratio", 0.0)), given.values
    least = given.number("lr_scheduler_kwargs.min_lr", 0.0)
    if not given.has("lr_scheduler_type"):
        given.left.append("lr_scheduler_type: constant here; TRL's default is linear, to 0")
    if share >= 1:
        share = share / more["max_steps"] if given.has("max_steps") else 0.0
    shapes: dict[str, Any] = {
        "cosine": Cosine(lr, 0.0),
        "cosine_with_min_lr": Cosine(lr, least),
        "linear": Linear(lr, 0.0),
    }
    then = shapes.get(kind, float(lr))
    if kind not in (*shapes, "constant", "constant_with_warmup"):
        given.refused("lr_scheduler_type", "no such schedule here: left constant")
    warm = share and kind != "constant"
    if kind not in shapes and not warm:
        return {}
    return {f"lr_scheduler_type={kind}, warm-up {share}": rate(Warmup(float(share), then) if warm else then)}


def _numbers(given: Given, descent: Any) -> Any:
    """AdamW's numbers, where the configuration says them."""
    own = {name: SAME_VALUE[name].rpartition(".")[2] for name in (*NUMBERS, "learning_rate")}
    said = {ours: float(given.number(name)) for name, ours in own.items() if given.has(name)}
    _left(given, [name for name in own if not given.has(name)], {n: vars(descent)[o] for n, o in own.items()})
    if given.has("optim") and not given.text("optim", "").startswith("adamw"):
        given.refused("optim", "AdamW is the one optimiser here")
    given.take("optim")
    return replace(descent, **said, epochs=given.whole("num_iterations", 1))


def _left(given: Given, names: list[str], ours: dict[str, Any]) -> None:
    """Note our defaults that stay, where TRL's are others."""
    given.left += [f"{n}: {ours[n]} here; TRL's default is {DEFAULTS[n]}" for n in names if ours[n] != DEFAULTS[n]]


def _sizes(given: Given, descent: Any) -> tuple[dict[str, Any], Any]:
    """Prompts a step, minibatches and rows a forward pass from TRL's counts of completions; one process is assumed."""
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "generation_batch_size",
    )
    rows, pieces, steps, batch = (given.whole(name) for name in names)
    if not any(given.has(name) for name in names):
        given.left.append("prompts a step and minibatches: ours; TRL's default is 8 completions a step, one prompt")
        return {**_steps(given, descent.epochs * descent.minibatches)}, descent
    rows, pieces = rows or DEFAULTS[names[0]], pieces or DEFAULTS[names[1]]
    group = given.whole("num_generations", DEFAULTS["num_generations"])
    steps = steps or (batch // rows if batch else pieces)
    if rows * steps % group or steps % pieces:
        name = next(name for name in names if given.has(name))
        text = f"{rows * steps} completions a step are no whole groups of {group}, or no whole updates"
        raise given.wrong(name, f"no fit: {text}; it")
    given.means.append(
        f"per_device_train_batch_size={rows} counts completions on a device: here descent.micro_batch, memory only; a "
        f"step has {rows * steps // group} prompts (of one process; with N, N times as many)"
    )
    minibatches = steps // pieces
    cut = replace(descent, minibatches=minibatches, micro_batch=rows, cut_groups=minibatches > 1)
    sizes = {"rollout.prompts": rows * steps // group, "rollout.group": group}
    return {**sizes, **_steps(given, minibatches * given.whole("num_iterations", 1))}, cut


def _steps(given: Given, updates: int) -> dict[str, Any]:
    if not given.has("max_steps"):
        return {}
    steps = given.whole("max_steps")
    given.means.append(f"max_steps={steps} counts updates; a step of ours takes {updates} of them")
    return {"steps": max(round(steps / updates), 1)}


def _config(given: Given) -> dict[str, Any]:
    """Options of the run."""
    found: dict[str, Any] = {}
    for name in COPIED:
        if given.has(name):
            read = {"gradient_checkpointing": given.truth, "temperature": given.number, "top_p": given.number}
            value = read.get(name, given.number)(name)
            found[SAME_VALUE[name]] = (
                value if isinstance(value, bool) or name in ("temperature", "top_p") else int(value)
            )
    if given.has("bf16"):
        found["precision"] = "bf16" if given.truth("bf16") else "full"
    else:
        given.left.append("precision: full here; TRL's default is bf16=True")
    for name, ours in {"seed": "seed", "lora_r": "lora.rank"}.items():
        found |= {ours: int(given.number(name))} if given.has(name) else {}
    found |= {"lora.alpha": float(given.number("lora_alpha"))} if given.has("lora_alpha") else {}
    texts = {"model_name_or_path": "model", "dataset_name": "data", "dataset_config": "data_config"}
    texts |= {"dataset_train_split": "data_split", "output_dir": "out"}
    found |= {ours: str(given.take(name)) for name, ours in texts.items() if given.has(name)}
    if given.truth("use_vllm"):
        found["rollout.sampler"] = "vllm"
        found |= {} if given.truth("vllm_importance_sampling_correction", True) else {"vllm.correct": False}
    given.take("use_peft")
    if given.truth("mask_truncated_completions"):
        given.refused("mask_truncated_completions", "cut-off responses stay in the loss here")
    return found


def _rewards(given: Given, config: dict[str, Any]) -> dict[str, Change]:
    """Reward functions: our own grading for accuracy_reward, the penalty for length, files by their path."""
    names, weights = given.take("reward_funcs", []), given.take("reward_weights", [])
    names = [names] if isinstance(names, str) else names
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise given.wrong("reward_weights", f"a list of {len(names)} numbers")
    found: dict[str, Change] = {}
    for name, weight in zip(names, weights, strict=True):
        file, _, function = str(name).rpartition(".")
        path = Path(file.replace(".", "/") + ".py")
        if name == "get_soft_overlong_punishment" and config.get("rollout.max_tokens") == OVERLONG[0]:
            found[str(name)] = shape(Overlong(cache_share=OVERLONG[1] / OVERLONG[0], factor=float(weight)))
        elif name == "accuracy_reward" and len(names) == 1:
            given.means.append("accuracy_reward is the task's own grading here (grading.by=math compares as TRL does)")
        elif file and path.is_file():
            config["reward"] = (*config.get("reward", ()), f"{path}:{function}" + ("" if weight == 1 else f"={weight}"))
        elif name != "accuracy_reward":
            given.refused("reward_funcs", f"{name} is no file of ours: name it by --reward FILE.py:function")
    return found
