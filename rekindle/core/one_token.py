"""One-token rollouts: every place of a written response as a bandit of one step (OTR, Ming et al., arXiv 2509.26313).

Tokens are drawn from the policy where the demonstration stands; the demonstrated one has reward 1, any other `beta`.
With q = softmax(logits / kappa), c counts of K draws from q, and x the demonstrated token, the loss of a place is
-(c_x / K * log p_x + beta * sum over v != x of c_v / K * log p_v), or the same with q in the place of c / K. At kappa 1
its expected gradient is (1 - beta) times that of DFT; else sum_v q_v grad log p_v is not 0 and beta has a say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.types import Batch, Metrics, Need, Now, Seen

EXACT_UP_TO = 4096
"""Tokens of a vocabulary up to which "auto" is exact."""


def behaviour(logits: Float[Tensor, "N V"], kappa: float) -> Float[Tensor, "N V"]:
    """What tokens are drawn from: the softmax of logits / kappa, in float32 at least, without gradient."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.softmax(logits.detach().to(wide) / kappa, dim=-1)


def counts(q: Float[Tensor, "N V"], draws: Float64[Tensor, "N K"]) -> Float[Tensor, "N V"]:
    """How often each token is drawn, one draw a uniform, by inverting the cumulative sum; no table [N K V]."""
    ladder = q.double().cumsum(dim=-1)
    token = torch.searchsorted(ladder, draws * ladder[:, -1:], right=True)
    return torch.zeros_like(q).scatter_add(1, token, torch.ones_like(token, dtype=q.dtype))


@dataclass(frozen=True, kw_only=True)
class OneTokenLoss:
    """The loss of each of N places, with the policy's gradient: what a `Need` computes. Settings as of `OneToken`."""

    estimator: Literal["auto", "exact", "sampled"]
    draws: int
    kappa: float
    beta: float

    def __call__(self, seen: Seen) -> Float[Tensor, " N"]:
        """No weight has a gradient: counts, rewards and q are constants."""
        logits = seen.logits["policy"]
        share = self.shares(seen)
        reward = torch.full_like(share, self.beta).scatter(1, seen.action[:, None], 1.0)
        weight = share * reward
        logp = torch.log_softmax(logits, dim=-1)
        return -(weight * logp.where(weight != 0, 0.0)).sum(dim=-1)  # 0 * -inf would be nan, also in the gradient

    def shares(self, seen: Seen) -> Float[Tensor, "N V"]:
        """How often each token is met at each place: rows sum to 1."""
        q = behaviour(seen.logits["policy"], self.kappa)
        exact = q.shape[1] <= EXACT_UP_TO if self.estimator == "auto" else self.estimator == "exact"
        return q if exact else counts(q, seen.draws(self.draws)) / self.draws


@dataclass(frozen=True, kw_only=True)
class OneToken:
    """The one-token rollout of every live place, weighted by the advantage: a score of 1 for a demonstration.

    estimator: "sampled" takes `draws` tokens a place, "exact" their expectation, "auto" the latter for vocabularies of
    up to 4096 tokens, whatever the record says. kappa: flattens what is drawn from, above 1. beta: the reward of other
    tokens, below 1; a negative one pushes down what the policy holds plausible and may take the entropy with it.
    Tokens that the policy holds impossible are hardly learned: from a cold start, SFT goes first.
    """

    estimator: Literal["auto", "exact", "sampled"] = "auto"
    draws: int = 256
    kappa: float = 1.3
    beta: float = -0.1
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"a place takes 1 draw or more, not {self.draws}: 256 is usual")
        if not self.kappa > 0:
            raise ValueError(f"kappa divides logits and is above 0, not {self.kappa}: 1.3 is usual")
        if not self.beta <= 1:
            raise ValueError(f"beta, the reward of other tokens, is at most that of the right one, 1, not {self.beta}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The loss of each place, in every pass."""
        loss = OneTokenLoss(estimator=self.estimator, draws=self.draws, kappa=self.kappa, beta=self.beta)
        return (Need("one_token", loss, when="now"),)

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metric `nll`, the mean of -log p of what is written in nats)."""
        live = batch.live
        loss = batch.advantage.where(live, 0.0) * now.extra["one_token"].where(live, 0.0)
        return loss, {"nll": (-masked_sum(now.logp.detach(), live).item(), float(live.sum().item()))}
