"""Action masks from a slowly moving copy of the policy, and the clipped surrogate of the policy within them (NLPO).

Ramamurthy et al., "Is Reinforcement Learning (Not) for Natural Language Processing", arXiv 2210.01241. The mask of a
state is the nucleus of the copy psi; log-probs are those of the policy renormalised over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.objectives import Clip
from rekindle.core.types import Batch, Metrics, Need, Now, Seen, entropy_of, taken

MASK = "mask"
"""The name of psi among a run's frozen copies."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Which tokens may be drawn in a state.

    kind: "learned_top_p", psi's smallest set of likeliest tokens whose share exceeds `p` (the token that crosses it
    included); "learned_top_k", psi's `k` likeliest; "topk", the `k` likeliest of the policy that samples. min_keep: at
    least so many of the likeliest. p of 1 or more switches the mask off.
    """

    kind: Literal["learned_top_p", "learned_top_k", "topk"] = "learned_top_p"
    p: float = 0.9
    k: int = 50
    min_keep: int = 100

    def __post_init__(self) -> None:
        if not (self.p > 0 and self.k >= 1 and self.min_keep >= 1):
            raise ValueError(
                f"a mask keeps a share above 0 and at least one token, not p={self.p}, k={self.k}, "
                f"min_keep={self.min_keep}"
            )

    @property
    def off(self) -> bool:
        """Whether everything is allowed: by a flag, for a cumulative sum in floating point overshoots 1."""
        return self.kind == "learned_top_p" and self.p >= 1

    @property
    def learned(self) -> bool:
        """Whether the mask is made from psi."""
        return self.kind != "topk" and not self.off

    def __call__(self, logits: Float[Tensor, "N V"]) -> Bool[Tensor, "N V"]:
        """The mask that these logits make (psi's; with "topk", the sampling policy's). Equal ones go by token id."""
        if self.off:
            return torch.ones_like(logits, dtype=torch.bool)
        order = logits.argsort(dim=-1, descending=True, stable=True)
        place = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
        if self.kind == "learned_top_p":
            share = torch.softmax(logits.double(), dim=-1).gather(1, order)
            crossed = share.cumsum(dim=-1) > self.p
            before = torch.nn.functional.pad(crossed[:, :-1], (1, 0), value=False)  # the one that crosses is kept
            keep = ~before | (place < self.min_keep)
        else:
            keep = place < max(self.k, self.min_keep if self.learned else 1)
        return torch.zeros_like(keep).scatter(1, order, keep)


def within(
    logits: Float[Tensor, "N V"], allowed: Bool[Tensor, "N V"], renormalize: bool = True
) -> tuple[Float[Tensor, "N V"], Float[Tensor, " N"]]:
    """(log-probs of the distribution within the mask, minus infinity outside; its entropy in nats).

    renormalize=False is what the official release computes: log-probs of the unmasked distribution, and an "entropy"
    of which the weights are renormalised and the logarithms are not. ValueError on a mask that allows nothing.
    """
    if not bool(allowed.any(dim=-1).all()):
        raise ValueError("a mask allows no token at all, so nothing can be drawn or scored there")
    logp = torch.log_softmax(logits, dim=-1).masked_fill(~allowed, -torch.inf)
    inside = torch.log_softmax(logp, dim=-1)
    if renormalize:
        return inside, entropy_of(inside)
    finite = logp.masked_fill(~allowed, 0.0)
    return logp, -(inside.exp() * finite).sum(dim=-1)


def with_tokens(allowed: Bool[Tensor, "N V"], ids: Int[Tensor, "N S"]) -> Bool[Tensor, "N V"]:
    """The mask with the tokens `ids` allowed, too; a negative id stands for none."""
    there = torch.zeros_like(allowed).scatter(1, ids.clamp(min=0), ids >= 0) if ids.shape[1] else allowed
    return allowed | there


@dataclass(frozen=True)
class Masked:
    """What a pass says of the actions within the mask, as `Need.compute`: log-probs, or with `entropy` the entropies.

    Reads `special` [N S], the ids that are always allowed, and with "topk" `kept_ids` [N k]. The action itself is
    allowed too, for where a cumulative sum crosses p depends on rounding.
    """

    allowed: Allowed
    renormalize: bool
    entropy: bool = False

    def __call__(self, seen: Seen) -> Float[Tensor, " N"]:
        """One number an action, with gradient where the policy's logits have one."""
        logits = seen.logits["policy"]
        ids = [seen.columns["special"], seen.action[:, None]]
        if self.allowed.learned:
            mask = self.allowed(seen.logits[MASK])
        else:
            mask, ids = torch.zeros_like(logits, dtype=torch.bool), [*ids, seen.columns["kept_ids"]]
        logp, entropy = within(logits, with_tokens(mask, torch.cat(ids, dim=1)), self.renormalize)
        return entropy if self.entropy else taken(logp, seen.action)


@dataclass(frozen=True, kw_only=True)
class WithinMask:
    """Another objective on the log-probs of the policy within its mask, then and now, minus entropy * their entropy.

    The mask is made anew by psi in every pass: psi may change between two steps only. renormalize: see `within`. With
    the mask off it is the other objective.
    """

    allowed: Allowed = field(default_factory=Allowed)
    inner: Clip = field(default_factory=Clip)
    renormalize: bool = True
    entropy: float = 0.0
    separable: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[Need, ...]:
        """Log-probs within the mask, at the weights that sampled and now; entropies where they count."""
        if self.allowed.off:
            return ()
        passes = ("policy", MASK) if self.allowed.learned else ("policy",)
        logp, entropy = (Masked(self.allowed, self.renormalize, entropy) for entropy in (False, True))
        now = [Need("logp_masked", logp, passes, when="now")]
        now += [Need("entropy_masked", entropy, passes, when="now")] if self.entropy else []
        return (Need("logp_masked_old", logp, passes), *now)

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; the metrics of the other objective, `entropy_masked`)."""
        if self.allowed.off:
            return self.inner(now, batch)
        live = batch.live
        said = Now(logp=now.extra["logp_masked"], entropy=now.entropy, extra=now.extra)
        loss, metrics = self.inner(said, batch.with_columns(logp_old=batch.column("logp_masked_old")))
        if not self.entropy:
            return loss, metrics
        spread = now.extra["entropy_masked"].where(live, 0.0)
        metrics["entropy_masked"] = (masked_sum(spread.detach(), live).item(), float(live.sum().item()))
        return loss - self.entropy * spread, metrics
