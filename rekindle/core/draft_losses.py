"""Losses that bring a draft model's next-token distribution p to a target's q, for speculative decoding.

A drafted token x is accepted with probability min(1, q(x) / p(x)), so that sum_v min(p, q) = 1 - TVD(p, q) of them are.
The gradient of TVD is a policy gradient under samples of p with the reward r(x) = 1[q(x) > p(x)]; TVD++ (Goel et al.,
arXiv 2403.00858) standardises that reward. In these needs the policy is the draft and the teacher the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.masked import masked_mean, masked_sum
from rekindle.core.types import Batch, Metrics, Need, Now, Seen, taken

TINY_SD = 1e-4
"""A reward whose standard deviation lies below this says nothing, and its scope has the loss 0."""


def draft_and_target(seen: Seen) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
    """(log p with the policy's gradient, q without) of N actions; of equal logits they agree to the last bit."""
    logp, logq = (torch.log_softmax(seen.logits[name], dim=-1) for name in ("policy", "teacher"))
    return logp, logq.exp()


def rewarded(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Bool[Tensor, "N V"]:
    """The tokens that the target holds likelier than the draft; a tie is none of them."""
    return q > logp.detach().exp()


def hit_share(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """E_p[r], without gradient."""
    return (logp.detach().exp() * rewarded(logp, q)).sum(dim=-1)


def hit_logp(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """E_p[r log p], the expectation as a constant: its gradient is that of -TVD."""
    weight = logp.detach().exp() * rewarded(logp, q)
    return (weight * logp.where(weight > 0, 0.0)).sum(dim=-1)  # 0 * -inf would be nan, also in the gradient


def acceptance(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """The share of drafted tokens that the target accepts, without gradient."""
    return torch.minimum(logp.detach().exp(), q).sum(dim=-1)


def block_efficiency(accepted: float, drafts: int) -> float:
    """Tokens a target pass where each of `drafts` tokens is accepted with this chance, independently of the others."""
    return sum(accepted**i for i in range(drafts + 1))


def tvd(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Total variation distance, 0 to 1."""
    return 0.5 * (logp.exp() - q).abs().sum(dim=-1)


def kld(logp: Float[Tensor, "N V"], q: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(q || p) in nats; infinite where the draft holds impossible what the target may say."""
    return (torch.xlogy(q, q) - q * logp.where(q > 0, 0.0)).sum(dim=-1)


def drawn(logp: Float[Tensor, "N V"], uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """A token of each row's p, by inverting its cumulative sum."""
    ladder = logp.detach().double().exp().cumsum(dim=-1)
    return (ladder <= (uniform * ladder[:, -1])[:, None]).sum(dim=-1)


def _drawn_logp(seen: Seen) -> Tensor:
    logp = draft_and_target(seen)[0]
    return taken(logp, drawn(logp, seen.draws(1)[:, 0]))


def _drawn_hit(seen: Seen) -> Tensor:
    logp, q = draft_and_target(seen)
    token = drawn(logp, seen.draws(1)[:, 0])
    return rewarded(logp, q).gather(1, token[:, None])[:, 0].to(logp.dtype)


def _hit_share(seen: Seen) -> Tensor:
    return hit_share(*draft_and_target(seen))


def _hit_logp(seen: Seen) -> Tensor:
    return hit_logp(*draft_and_target(seen))


def _acceptance(seen: Seen) -> Tensor:
    return acceptance(*draft_and_target(seen))


def _tvd(seen: Seen) -> Tensor:
    return tvd(*draft_and_target(seen))


def _kld(seen: Seen) -> Tensor:
    return kld(*draft_and_target(seen))


_BOTH = ("policy", "teacher")
ACCEPTANCE = Need("draft_acceptance", _acceptance, passes=_BOTH, when="now")
TVD = Need("draft_tvd", _tvd, passes=_BOTH, when="now")
KLD = Need("draft_kld", _kld, passes=_BOTH, when="now")
HIT_SHARE = Need("draft_hit_share", _hit_share, passes=_BOTH, when="now")
HIT_LOGP = Need("draft_hit_logp", _hit_logp, passes=_BOTH, when="now")
DRAWN_LOGP = Need("draft_drawn_logp", _drawn_logp, passes=_BOTH, when="now")
DRAWN_HIT = Need("draft_drawn_hit", _drawn_hit, passes=_BOTH, when="now")


@dataclass(frozen=True, kw_only=True)
class DraftLoss:
    """The distance of the draft from the target at every token of a row; whatever the rows' scores are.

    kind: "kld" is KL(q || p), "tvd" the total variation distance, "tvd++" its policy gradient with the reward
    (r - mu) / sd in the place of r. estimator of E_p: "exact" over the vocabulary, or "sampled" by one token x of p a
    position (the prefix stays). scope: of mu and sd, all live tokens of a minibatch, a row's or one position's;
    p-weighted where exact, plain over the draws (population sd) where sampled. A scope with sd < 1e-4 has the loss 0.
    """

    kind: Literal["kld", "tvd", "tvd++"] = "tvd++"
    estimator: Literal["exact", "sampled"] = "exact"
    scope: Literal["batch", "sequence", "position"] = "batch"

    def __post_init__(self) -> None:
        if self.kind == "kld" and self.estimator == "sampled":
            raise ValueError("kind 'kld' is an expectation under the target, which nobody samples: use 'exact'")
        if self.kind == "tvd++" and self.estimator == "sampled" and self.scope == "position":
            raise ValueError("one draw a position has no mean and deviation: use the scope 'batch' or 'sequence'")

    @property
    def separable(self) -> bool:
        """Only a mean and deviation of the whole minibatch look beyond the row."""
        return self.kind != "tvd++" or self.scope != "batch"

    @property
    def needs(self) -> tuple[Need, ...]:
        """What is wanted of both models in every pass."""
        return (*self._pieces(), ACCEPTANCE)

    def _pieces(self) -> tuple[Need, ...]:
        if self.estimator == "sampled":
            return (DRAWN_LOGP, DRAWN_HIT)
        return {"kld": (KLD,), "tvd": (TVD,), "tvd++": (HIT_LOGP, HIT_SHARE)}[self.kind]

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics `acceptance` and, of "tvd++", the reward's mean)."""
        live, pieces = batch.live, [now.extra[need.name] for need in self._pieces()]
        metrics: Metrics = {"acceptance": _sums(now.extra[ACCEPTANCE.name], batch)}
        first, second = (piece.where(live, 0.0) for piece in (pieces[0], pieces[-1]))
        if self.kind == "tvd++":
            metrics["draft_reward"] = _sums(second, batch)
            return self._standardized(first, second.detach(), now, batch), metrics
        return (-second.detach() * first if self.estimator == "sampled" else first), metrics

    def _standardized(
        self, logp: Float[Tensor, "B T"], reward: Float[Tensor, "B T"], now: Now, batch: Batch
    ) -> Float[Tensor, "B T"]:
        """-E_p[(r - mu) / sd log p] = -(E_p[r log p] - mu E_p[log p]) / sd, or the same of the draws.

        Exactly taken, E_p[log p] with constant weights is minus the entropy and has no gradient.
        """
        mean, live = _means(reward, batch, self.scope), batch.live
        sd = (mean * (1 - mean)).clamp(min=0).sqrt()  # r is 0 or 1
        if self.estimator == "sampled":
            centred = (reward - mean) * logp
        else:
            centred = logp + mean * now.entropy.detach().where(live, 0.0)
        told = live & (sd >= TINY_SD)
        return -centred.where(told, 0.0) / sd.where(told, 1.0)


def _means(x: Float[Tensor, "B T"], batch: Batch, scope: str) -> Float[Tensor, "B T"]:
    """The mean of `x` over the live tokens of each position's scope."""
    if scope == "position":
        return x
    mean = masked_mean(x, batch.live) if scope == "batch" else masked_mean(x, batch.live, dim=1)[:, None]
    return mean.expand_as(x)


def _sums(x: Float[Tensor, "B T"], batch: Batch) -> tuple[float, float]:
    return masked_sum(x.detach(), batch.live).item(), float(batch.live.sum().item())
