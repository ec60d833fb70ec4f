"""Soft thinking as an action with a density: Gumbel noise on log-probs (SofT-GRPO, Zheng et al., arXiv 2511.06411).

A soft step takes the K likeliest tokens, adds Gumbel noise to their log-probs (g') and feeds the model the mixture
y = softmax(g' / tau_g) of their embeddings. With e = g' - log q of the current policy, the log-density of g' is
sum_i -e_i - exp(-e_i), and its gradient on log q_i is 1 - exp(-e_i).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rekindle.core.masked import masked_sum
from rekindle.core.objectives import Clip, share
from rekindle.core.terms import kl_estimate
from rekindle.core.types import Batch, Metrics, MissingColumn, Need, Now, Seen, taken

ONE_HOT = 0.99
"""A mixture whose heaviest token weighs more is one token in all but name."""
TINY = 1e-6  # added to probabilities before the logarithm (official code)
LEAST = -3.0  # log-prob above which an id counts in the mean (official code)


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """How soft steps are taken, and when they end.

    top_k, top_p: the ids of a step, renormalised. noise: times standard Gumbel noise, clamped to `clamp`. tau: divides
    g' before the softmax. steps: soft steps at the most, then thinking ends by force (0: no limit). end: the text of
    the one token that ends thinking ("": none).
    """

    top_k: int = 5
    top_p: float = 0.95
    noise: float = 1.0
    clamp: tuple[float, float] = (-1.5, 3.0)
    tau: float = 0.1
    steps: int = 4
    end: str = ""

    def __post_init__(self) -> None:
        if not (self.top_k >= 1 and 0 < self.top_p <= 1 and self.noise >= 0 and self.tau > 0 and self.steps >= 0):
            raise ValueError(
                f"soft steps take top_k of 1 or more, top_p above 0 up to 1, noise of 0 or more, tau above 0 and steps "
                f"of 0 or more, not {self.top_k}, {self.top_p}, {self.noise}, {self.tau}, {self.steps}"
            )

    def likely(self, logits: Float[Tensor, "N V"]) -> tuple[Int[Tensor, "N K"], Float[Tensor, "N K"]]:
        """(the K likeliest ids, their shares within top-k and then top-p; 0 for those that top-p cuts)."""
        share, ids = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True, stable=True)
        share, ids = share[:, : self.top_k], ids[:, : self.top_k]
        share = share / share.sum(dim=1, keepdim=True)
        before = share.double().cumsum(dim=1) - share
        share = share.where(before < self.top_p, 0.0)
        return ids, share / share.sum(dim=1, keepdim=True)

    def perturbed(self, share: Float[Tensor, "N K"], uniform: Float64[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """g' = log(p + 1e-6) + noise * clamped Gumbel noise made of `uniform`; float32 at least."""
        gumbel = -(-uniform.log()).log()
        wide = torch.promote_types(share.dtype, torch.float32)
        return (share.to(wide) + TINY).log() + self.noise * gumbel.clamp(*self.clamp).to(wide)

    def mixture(self, noisy: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """y = softmax(g' / tau): the weights of the ids' embeddings in the next input."""
        return torch.softmax(noisy / self.tau, dim=1)


def density(
    logits: Float[Tensor, "N V"],
    ids: Int[Tensor, "N K"],
    noisy: Float[Tensor, "N K"],
    on: Bool[Tensor, "N K"],
    score: Literal["mean", "sum"] = "mean",
    clamp: tuple[float, float] = (-1.5, 3.0),
) -> Float[Tensor, " N"]:
    """The log-density of the noisy log-probs `noisy` of `ids` under the policy of these logits; 0 where none is `on`.

    "sum": the paper's sum_i -e_i - exp(-e_i) over the ids that were `on` (had a share) when they were drawn. "mean":
    the official code's, e clamped and averaged over the ids whose current log-prob within the ids is above -3.
    """
    logq = torch.log_softmax(logits, dim=-1).gather(1, ids)
    log = (torch.softmax(logq, dim=1) + TINY).log()
    e = noisy - log
    if score == "sum":
        e = e.where(on, 0.0)
        return (-e - (-e).exp()).where(on, 0.0).sum(dim=1)
    counted = (log.detach() > LEAST) & on.any(dim=1, keepdim=True)
    e = e.clamp(*clamp).where(counted, 0.0)
    return (-e - (-e).exp()).where(counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class Scored:
    """`density` at soft steps and the log-prob of the token elsewhere, as `Need.compute` over one pass."""

    by: str
    score: Literal["mean", "sum"]
    clamp: tuple[float, float]

    def __call__(self, seen: Seen) -> Float[Tensor, " N"]:
        """One number an action. MissingColumn where nobody sampled by soft steps."""
        if "soft_on" not in seen.columns:
            raise MissingColumn("no column 'soft_on' in the batch: its rows were not drawn by soft thinking")
        logits, on = seen.logits[self.by], seen.columns["soft_on"]
        where = (seen.columns["soft_ids"], seen.columns["soft_noise"], on)
        soft = density(logits, *where, self.score, self.clamp)
        plain = taken(torch.log_softmax(logits, dim=-1), seen.action)
        return torch.where(on.any(dim=1), soft.to(plain.dtype), plain)


@dataclass(frozen=True, kw_only=True)
class SoftClip:
    """Another objective on the log-densities of soft steps (and log-probs of tokens), plus kl * k3 to the reference.

    score: "mean" tempers the ratio and shrinks the gradient, as the official code does; "sum" is the paper's formula.
    """

    thinking: Thinking = field(default_factory=Thinking)
    inner: Clip = field(default_factory=Clip)
    score: Literal["mean", "sum"] = "mean"
    kl: float = 1e-3
    separable: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[Need, ...]:
        """Scores at the weights that sampled, now, and of the reference where it counts."""
        own, ref = (Scored(by, self.score, self.thinking.clamp) for by in ("policy", "reference"))
        far = (Need("logp_soft_ref", ref, ("reference",)),) if self.kl else ()
        return (Need("logp_soft_old", own), Need("logp_soft", own, when="now"), *far)

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(loss of each token, 0 off live positions; metrics of the other objective, of mixtures and of the KL)."""
        live, logp = batch.live, now.extra["logp_soft"]
        said = Now(logp=logp, entropy=now.entropy, extra=now.extra)
        loss, metrics = self.inner(said, batch.with_columns(logp_old=batch.column("logp_soft_old")))
        metrics |= mixture_metrics(batch)
        if not self.kl:
            return loss, metrics
        far = kl_estimate(batch.column("logp_soft_ref").where(live, 0.0) - logp.where(live, 0.0), "k3")
        metrics["kl_ref"] = (masked_sum(far.detach(), live).item(), float(live.sum().item()))
        return loss + self.kl * far, metrics


def mixture_metrics(batch: Batch) -> Metrics:
    """How soft the live soft steps are: mean weight of the heaviest token, share of steps where it is above 0.99."""
    heaviest = batch.column("soft_weight").amax(dim=2)
    soft = batch.live & (heaviest > 0)
    return {
        "soft/heaviest": (masked_sum(heaviest, soft).item(), float(soft.sum().item())),
        "soft/one_hot": share(heaviest > ONE_HOT, soft),
    }
