"""verl's side: its advantage estimators, policy losses, KL estimates and rollout weights, called as its actor does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos, rollout_corr_helper  # type: ignore[import-not-found]
from verl.workers.config import ActorConfig, PolicyLossConfig  # type: ignore[import-not-found]

from benchmarks.judge.cases import Case
from benchmarks.judge.sides import Said, leaves, with_batch
from rekindle.core.types import Batch

POLICY_LOSS = {"clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", "kl_cov_ratio", "ppo_kl_coef"}


class AlgoFlags(dict):
    """The two settings that estimators read, as attributes and as `get`."""

    gamma = 1.0


def config(flags: Mapping[str, Any]) -> Any:
    """An actor's configuration with verl's defaults but `flags`."""
    inner = PolicyLossConfig(**{k: v for k, v in flags.items() if k in POLICY_LOSS})
    outer = {k: v for k, v in flags.items() if k not in POLICY_LOSS}
    return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=inner, **outer)


def token_rewards(batch: Batch) -> Tensor:
    """The score on the last action of each row [B T]."""
    place = torch.where(batch.mask, torch.arange(batch.mask.shape[1]), -1).amax(dim=1)
    rewards = torch.zeros(batch.mask.shape, dtype=batch.score.dtype)
    rewards[torch.arange(len(batch)), place.clamp(min=0)] = batch.score.where(place >= 0, 0.0)
    return rewards


def advantage(case: Case, estimator: str, kl_coef: float = 0.0, **flags: Any) -> Said:
    """Advantages by the estimator registered as `estimator`, the KL taken off the rewards first as its trainer does."""
    batch = case.batch
    rewards, mask = token_rewards(batch), batch.mask.to(batch.score.dtype)
    if kl_coef:
        rewards = rewards - kl_coef * mask * core_algos.kl_penalty(batch.logp_old, batch.column("logp_ref"), "kl")
    given: dict[str, Any] = {"token_level_rewards": rewards, "response_mask": mask}
    if estimator == "remax":
        given["reward_baselines"] = batch.column("score_greedy")
    elif estimator == "gae":
        given["values"] = batch.column("value_old")
    elif estimator != "reinforce_plus_plus":
        given["index"] = numpy.array(batch.group.tolist())
    if estimator != "gae":
        given["config"] = AlgoFlags(flags)
    found, _ = core_algos.get_adv_estimator_fn(estimator)(**given, **flags)
    return Said(advantage=found.where(batch.mask, 0.0))


def loss(case: Case, name: str, aggregate: str = "token-mean", pieces: int = 1, **flags: Any) -> Said:
    """Loss and gradient of the policy loss `name`; micro-batches share the global counts, as verl's actor does."""
    leaf, total = leaves(case), 0.0
    torch.manual_seed(case.seed)
    settings = config({**flags, "loss_agg_mode": aggregate})
    if pieces > 1:
        counts = {"batch_num_tokens": case.batch.mask.sum(), "global_batch_size": len(case.batch)}
        settings.global_batch_info.update(dp_size=1, **counts)
    for rows in torch.arange(len(case.batch)).chunk(pieces):
        piece = case.batch.take(rows)
        found, _ = core_algos.get_policy_loss_fn(name)(
            old_log_prob=piece.logp_old,
            log_prob=leaf[0][rows],
            advantages=piece.advantage,
            response_mask=piece.mask.long(),
            loss_agg_mode=aggregate,
            config=settings,
            rollout_is_weights=piece.extra.get("weights"),
        )
        found.backward()
        total += found.item()
    return Said(loss=total, gradient=leaf.grad)


def whole(case: Case, estimator: str, name: str, aggregate: str, flags: Mapping[str, Any], **algo: Any) -> Said:
    """From scores to gradient."""
    found = advantage(case, estimator, **algo).advantage
    assert found is not None
    batch = case.batch.with_columns(advantage=found)
    said = loss(with_batch(case, batch), name, aggregate, **flags)
    return Said(found, said.loss, said.gradient)


def weighted(case: Case, level: str, threshold: float | str, **flags: Any) -> Said:
    """PPO's loss with the weights against the mismatch of sampler and trainer."""
    batch = case.batch
    moved = (batch.logp_old - batch.column("logp_sampled")).where(batch.mask, 0.0)
    weights, _ = rollout_corr_helper.compute_rollout_correction_weights(moved, batch.mask.long(), level, threshold)
    case = with_batch(case, batch.with_columns(weights=weights))
    return loss(case, "vanilla", **flags)


def kl(case: Case, kind: str, coef: float, aggregate: str = "token-mean") -> Said:
    """The KL penalty alone, as a loss."""
    leaf = leaves(case)
    estimate = core_algos.kl_penalty(leaf[0], case.batch.column("logp_ref"), kind)
    found = coef * core_algos.agg_loss(estimate, case.batch.mask.long(), aggregate)
    found.backward()
    return Said(loss=found.item(), gradient=leaf.grad)


def value_loss(case: Case, gamma: float, lam: float, clip: float) -> Said:
    """The clipped loss of the value head on the returns of `gae`."""
    leaf = leaves(case)
    batch, old = case.batch, case.batch.column("value_old")
    _, returns = core_algos.compute_gae_advantage_return(token_rewards(batch), old, batch.mask.double(), gamma, lam)
    found, _ = core_algos.compute_value_loss(leaf[2], returns, old, batch.mask.long(), clip)
    found.backward()
    return Said(loss=found.item(), gradient=leaf.grad)
