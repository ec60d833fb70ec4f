"""How a run collects, samples and descends, as fields of TRL 1.16's `GRPOConfig`."""

from __future__ import annotations

from typing import Any

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.descent import Descent
from rekindle.core.schedules import Constant, Cosine, Linear, Warmup
from rekindle.interop.explain.batches import Cut, cut, sampled
from rekindle.interop.explain.said import Place, Said, Table, fixed, flags, lacks, same
from rekindle.methods.dapo import Overlong
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.collect import Everything, FirstOfGroup, InOrder, MixedGroups, Once
from rekindle.tokens.labels import MajorityVote, Verified
from rekindle.train.settings import samples_per_prompt

PACKAGE = "rekindle.interop.trl"


def descent(part: Descent, place: Place) -> Said:
    """Updates: rows a device, accumulation, iterations, and AdamW's numbers. TRL mixes the rows of all prompts."""
    found = cut(part, place)
    said = Said(
        flags={
            "per_device_train_batch_size": found.micro,
            "gradient_accumulation_steps": found.accumulated,
            "steps_per_generation": found.accumulated * found.minibatches,
            "num_iterations": part.epochs,
            "adam_beta1": part.beta1,
            "adam_beta2": part.beta2,
            "weight_decay": part.weight_decay,
            "max_grad_norm": part.grad_clip,
        }
    )
    if found.minibatches > 1:
        reason = "TRL shuffles all rows of a step before it cuts them: a minibatch has parts of groups"
        said += fixed(place, "cut_groups", part.cut_groups, True, reason)
    if not found.even:
        said += lacks(place, "TRL's minibatches have equally many rows", part.minibatches, at="minibatches")
    memory = "of a forward pass, memory only: TRL wants a divisor of the minibatch"
    said += fixed(place, "micro_batch", part.micro_batch, found.micro, memory, matters=False)
    said += fixed(place, "minibatches", part.minibatches, found.minibatches, "there are no more prompts", matters=False)
    if part.head_lr is not None:
        said += lacks(place, "GRPOTrainer trains no heads", part.head_lr, at="head_lr")
    return said + rate(part.lr, place)


def rate(lr: Any, place: Place) -> Said:
    """The learning rate and its scheduler; TRL's default is linear to 0. Other schedules are lacking."""
    share, then = (lr.fraction, lr.then) if isinstance(lr, Warmup) else (0.0, lr)
    warm = flags(warmup_steps=share) if share else Said()
    then = then.level if isinstance(then, Constant) else then
    if isinstance(then, int | float):
        return (
            flags(learning_rate=float(then), lr_scheduler_type="constant_with_warmup" if share else "constant") + warm
        )
    if isinstance(then, Cosine):
        kind = flags(lr_scheduler_type="cosine")
        if then.end:
            kind = flags(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": then.end})
        return flags(learning_rate=then.start) + kind + warm
    if isinstance(then, Linear) and then.end == 0:
        return flags(learning_rate=then.start, lr_scheduler_type="linear") + warm
    return lacks(place, "no scheduler of this shape", lr, at="lr")


def run(place: Place) -> Said:
    """Options of the run: sampling, precision, seed. `max_steps` counts updates in TRL."""
    config, rollout = place.config, place.config.rollout
    said = Said(
        flags={
            "num_generations": rollout.group,
            "max_completion_length": rollout.max_tokens,
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            "top_k": rollout.top_k,
            "seed": config.seed,
            "bf16": config.precision == "bf16",
            "gradient_checkpointing": config.checkpointing,
        }
    )
    updates = place.record.descent
    found = cut(updates, place)
    said += flags(max_steps=config.steps * updates.epochs * found.minibatches) + _processes(found, place)
    if rollout.sampler == "vllm" and not isinstance(place.record.aggregate, SamplerWeighted):
        said += flags(use_vllm=True, vllm_importance_sampling_correction=False)
    if rollout.group < 2:
        said += lacks(place, "TRL wants two responses a prompt or more", rollout.group, at="rollout.group")
    if rollout.stop:
        said += lacks(place, "GRPOConfig has no stop strings", rollout.stop, at="rollout.stop")
    if config.lora.rank:
        said += lacks(place, "adapters are an argument of the trainer: peft_config", config.lora.rank, at="lora.rank")
    return said


def _processes(found: Cut, place: Place) -> Said:
    """How many processes the sizes are of."""
    if found.ranks == 1:
        return Said()
    if not found.shared:
        reason = f"TRL's processes have equally many rows of a minibatch's {found.rows}; the sizes are of one process"
        return lacks(place, reason, found.ranks, at="ranks")
    return Said(
        same=f"the sizes are of each of {found.ranks} processes: accelerate launch --num_processes {found.ranks}"
    )


def verified(part: Verified, place: Place) -> Said:
    """A reward of 1 or 0 by the reference, or the user's own functions."""
    own = tuple(_weighted(text) for text in place.config.reward)
    return Said(rewards=own or (("accuracy_reward", 1.0),), same="a reward of 1 for the right answer, else 0")


def _weighted(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    return name.rpartition(":")[2], float(weight or 1)


def picked(part: FirstOfGroup, place: Place) -> Said:
    """TRL trains on every response that it draws."""
    rollout = place.config.rollout
    drawn = samples_per_prompt(place.record, rollout)
    if not sampled(place) or drawn == rollout.group:
        return Said(same="every response is trained on")
    return lacks(
        place, f"{drawn} responses vote, {rollout.group} are trained on: TRL trains on all that it draws", part
    )


def overlong(part: Overlong, place: Place) -> Said:
    """TRL's own soft penalty, with the cache in tokens."""
    limit = place.config.rollout.max_tokens
    cache = part.cache_share * limit
    name = f"get_soft_overlong_punishment(max_completion_len={limit}, soft_punish_cache={round(cache)})"
    if abs(cache - round(cache)) > 1e-9:
        reason = f"TRL's cache is a whole number of tokens: {round(cache)} of {limit}"
        said = fixed(place, "cache_share", part.cache_share, round(cache) / limit, reason)
    else:
        said = Said()
    return said + Said(rewards=((name, part.factor),))


def vote(part: MajorityVote, place: Place) -> Said:
    """No flag: a reward function that sees the whole group does it."""
    return lacks(
        place, "GRPOConfig has no vote: TRL's rewards are functions", part, bridge=f"{PACKAGE}.majority_reward"
    )


def novelty(part: NoveltyBands, place: Place) -> Said:
    """No flag: a reward function that sees the whole group does it."""
    reason = "GRPOConfig has no novelty: TRL's rewards are functions"
    return lacks(place, reason, part, bridge=f"{PACKAGE}.novelty_reward")


def mixed(part: MixedGroups, place: Place) -> Said:
    """TRL trains on whatever it drew."""
    return lacks(place, "TRL draws no other prompts for those whose responses are all right or all wrong", part)


TABLE: Table = {
    Descent: descent,
    InOrder: same("shuffle_dataset=True, TRL's default"),
    Once: same("num_generations responses to each prompt"),
    FirstOfGroup: picked,
    Everything: same("all prompts are trained on"),
    MixedGroups: mixed,
    Verified: verified,
    Overlong: overlong,
    MajorityVote: vote,
    NoveltyBands: novelty,
}
