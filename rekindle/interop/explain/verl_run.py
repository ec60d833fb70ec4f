"""How a run collects, samples and descends, as hydra overrides of verl 0.9.1."""

from __future__ import annotations

from typing import Any

from rekindle.core.descent import Descent
from rekindle.core.schedules import Constant, Cosine, Warmup
from rekindle.interop.explain.batches import cut, sampled
from rekindle.interop.explain.said import Place, Said, Table, fixed, lacks, same
from rekindle.interop.explain.verl_parts import ACTOR, ALGORITHM, actor
from rekindle.methods.dapo import Overlong
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.methods.remax import GreedyBaseline
from rekindle.tokens.collect import Everything, FirstOfGroup, InOrder, MixedGroups, Once
from rekindle.tokens.labels import MajorityVote, Verified
from rekindle.train.settings import samples_per_prompt

ROLLOUT, OPTIM = "actor_rollout_ref.rollout", f"{ACTOR}.optim"
REFERENCE = "actor_rollout_ref.ref"
PARAM_DTYPE = "mixed_precision.param_dtype"
"""What an FSDP engine computes in: bf16 unless said, with gradients and buffers in fp32. It does not read `dtype`."""
UNCLIPPED = 1e9
"""A gradient norm that is never reached: verl always clips."""
GROUPS = "verl's own reward managers grade one response at a time"
MANAGER = "rekindle.interop.verl.managers.GroupRewardManager"


def descent(part: Descent, place: Place) -> Said:
    """Updates: prompts a minibatch, epochs, rows a forward pass, and AdamW's numbers."""
    found = cut(part, place)
    prompts, limit = max(found.prompts // found.minibatches, 1), part.grad_clip or UNCLIPPED
    said = actor(
        ppo_epochs=part.epochs,
        ppo_mini_batch_size=prompts,
        ppo_micro_batch_size_per_gpu=found.micro,
        shuffle=part.epochs > 1,
        grad_clip=limit,
    )
    betas = [part.beta1, part.beta2]
    said += Said(flags={f"{OPTIM}.betas": betas, f"{OPTIM}.weight_decay": part.weight_decay})
    said += Said(flags={f"{OPTIM}.clip_grad": limit, "trainer.balance_batch": False})
    said += Said(flags={f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": found.micro})
    if "reference" in place.record.passes():
        said += Said(flags={f"{REFERENCE}.log_prob_micro_batch_size_per_gpu": found.micro})
    if found.minibatches > 1:
        reason = "verl cuts a step by prompts, in the order of the data"
        said += fixed(place, "cut_groups", part.cut_groups, False, reason)
    if not found.even:
        said += lacks(place, "verl's minibatches have equally many prompts", part.minibatches, at="minibatches")
    memory = "of a forward pass, memory only: verl wants a divisor of the minibatch"
    said += fixed(place, "micro_batch", part.micro_batch, found.micro, memory, matters=False)
    said += fixed(place, "minibatches", part.minibatches, found.minibatches, "there are no more prompts", matters=False)
    return said + rate(part.lr, place) + head(part, place)


def rate(lr: Any, place: Place) -> Said:
    """The learning rate and its scheduler."""
    share, then = (lr.fraction, lr.then) if isinstance(lr, Warmup) else (0.0, lr)
    then = then.level if isinstance(then, Constant) else then
    warm = {f"{OPTIM}.lr_warmup_steps_ratio": share} if share else {}
    if isinstance(then, int | float):
        return Said(flags={f"{OPTIM}.lr": float(then), f"{OPTIM}.lr_scheduler_type": "constant", **warm})
    if not isinstance(then, Cosine):
        return lacks(place, "no scheduler of this shape", lr, at="lr")
    least = {f"{OPTIM}.min_lr_ratio": then.end / then.start} if then.end else {}
    return Said(flags={f"{OPTIM}.lr": then.start, f"{OPTIM}.lr_scheduler_type": "cosine", **warm, **least})


def head(part: Descent, place: Place) -> Said:
    """The critic's learning rate."""
    if part.head_lr is None:
        return Said()
    if not isinstance(part.head_lr, int | float) or "value" not in place.record.heads():
        return lacks(place, "verl trains a critic's head only, at one rate", part.head_lr, at="head_lr")
    return Said(flags={"critic.optim.lr": float(part.head_lr), "critic.ppo_micro_batch_size_per_gpu": 1})


def run(place: Place) -> Said:
    """Options of the run. Its two sizes are of prompts; the sampler is always an engine of its own."""
    config, rollout = place.config, place.config.rollout
    sampling = {"name": "vllm", "n": rollout.group, "temperature": rollout.temperature, "top_p": rollout.top_p}
    sampling |= {"top_k": rollout.top_k or -1, "tensor_model_parallel_size": 1}
    said = Said(
        flags={
            "data.train_batch_size": rollout.prompts,
            "data.max_response_length": rollout.max_tokens,
            **{f"{ROLLOUT}.{name}": value for name, value in sampling.items()},
            "actor_rollout_ref.model.enable_gradient_checkpointing": config.checkpointing,
            "trainer.total_training_steps": config.steps,
            "trainer.n_gpus_per_node": config.ranks,
            "data.seed": config.seed,
        }
    )
    computed = "fp32" if config.precision == "full" else "bf16"
    said += Said(flags={f"+{engine}.{PARAM_DTYPE}": computed for engine in _engines(place)})
    if config.lora.rank:
        alpha = 2.0 * config.lora.rank if config.lora.alpha is None else config.lora.alpha
        found = {"lora_rank": config.lora.rank, "lora_alpha": alpha}
        said += Said(flags={f"actor_rollout_ref.model.{name}": value for name, value in found.items()})
    if rollout.stop:
        said += lacks(place, "verl's rollout has no stop strings", rollout.stop, at="rollout.stop")
    return said


def _engines(place: Place) -> list[str]:
    """The FSDP engines of the run, by the path of their configuration."""
    found = [f"{ACTOR}.fsdp_config"]
    found += [f"{REFERENCE}.fsdp_config"] if "reference" in place.record.passes() else []
    return found + (["critic.fsdp"] if "value" in place.record.heads() else [])


def verified(part: Verified, place: Place) -> Said:
    """verl's own score by data_source, or the user's function."""
    told = "a reward of 1 for the right answer, else 0: verl's own score by data_source"
    if not place.config.reward:
        return Said(same=told)
    spec, _, weight = place.config.reward[0].partition("=")
    path, _, name = spec.rpartition(":")
    own = {"reward.custom_reward_function.path": path, "reward.custom_reward_function.name": name}
    said = Said(flags={f"{name}": value for name, value in own.items()})
    if len(place.config.reward) > 1 or float(weight or 1) != 1:
        said += lacks(place, "verl has one reward function, without a weight", place.config.reward, at="reward")
    return said


def picked(part: FirstOfGroup, place: Place) -> Said:
    """verl trains on every response that it draws."""
    rollout = place.config.rollout
    drawn = samples_per_prompt(place.record, rollout)
    if not sampled(place) or drawn == rollout.group:
        return Said(same="every response is trained on")
    return lacks(place, f"{drawn} responses vote, {rollout.group} are trained on: verl trains on all it draws", part)


def mixed(part: MixedGroups, place: Place) -> Said:
    """Group filtering, by `acc`: the reward may be shaped."""
    found = {"enable": True, "metric": "acc", "max_num_gen_batches": part.max_rounds}
    told = "the reward function returns acc, too; verl's V1 sampler asks on beyond max_num_gen_batches"
    return Said(flags={f"{ALGORITHM}.filter_groups.{name}": value for name, value in found.items()}, same=told)


def overlong(part: Overlong, place: Place) -> Said:
    """The penalty of verl's reward manager `dapo`, with the cache in tokens."""
    limit = place.config.rollout.max_tokens
    cache, kwargs = part.cache_share * limit, "+reward.reward_kwargs"
    buffer = {"enable": True, "len": round(cache), "penalty_factor": part.factor, "log": False}
    said = Said(flags={f"{kwargs}.overlong_buffer_cfg.{name}": value for name, value in buffer.items()})
    said += Said(flags={f"{kwargs}.max_resp_len": limit, "reward.reward_manager.name": "dapo"})
    if abs(cache - round(cache)) <= 1e-9:
        return said
    reason = f"verl's buffer is a whole number of tokens: {round(cache)} of {limit}"
    return said + fixed(place, "cache_share", part.cache_share, round(cache) / limit, reason)


def greedy(part: GreedyBaseline, place: Place) -> Said:
    """A piece of remax."""
    return Said(same="remax samples a greedy response")


TABLE: Table = {
    Descent: descent,
    InOrder: same("data.shuffle=True, verl's default"),
    Once: same("rollout.n responses to each prompt"),
    FirstOfGroup: picked,
    Everything: same("all prompts are trained on"),
    MixedGroups: mixed,
    Verified: verified,
    Overlong: overlong,
    GreedyBaseline: greedy,
    MajorityVote: lambda part, place: lacks(place, f"no vote: {GROUPS}", part, bridge=MANAGER),
    NoveltyBands: lambda part, place: lacks(place, f"no novelty: {GROUPS}", part, bridge=MANAGER),
}
