"""Distillation on the policy's own tokens: a teacher's judgement of them, as a term of the loss or in the advantage.

With R = logp_teacher - logp of a sampled token (KDRL, Xu et al., arXiv 2506.02208). As losses on the policy's own
samples, k2 = R^2 / 2 has the expected gradient of KL(policy || teacher), k3 = e^R - R - 1 that of KL(teacher || policy)
and k1 = -R none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.groups import group_max
from rekindle.core.masked import masked_sum
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Need, Now, Seen, taken

FAR = 10.0
"""Nats between teacher and policy from which a sampled token counts as far."""
IN_ADVANTAGE = "a teacher inside the advantage"


def _teacher_logp(seen: Seen) -> Tensor:
    return taken(torch.log_softmax(seen.logits["teacher"], dim=-1), seen.action)


LOGP_TEACHER = Need("logp_teacher", _teacher_logp, passes=("teacher",))


@dataclass(frozen=True)
class ReverseKL:
    """KL(policy || teacher) in nats of N actions' distributions, with the policy's gradient: what a `Need` computes.

    top: over the policy's `top` likeliest tokens, both renormalised (0: all). Tokens that the teacher's table lacks
    count for neither.
    """

    top: int = 0

    def __call__(self, seen: Seen) -> Float[Tensor, " N"]:
        """0 to infinity."""
        ours, theirs = seen.logits["policy"], seen.logits["teacher"]
        if 0 < self.top < ours.shape[1]:
            best = ours.detach().topk(self.top, dim=-1).indices
            ours, theirs = ours.gather(1, best), theirs.gather(1, best)
        known = (theirs > -torch.inf) & (ours > -torch.inf)
        logp = torch.log_softmax(ours.masked_fill(~known, -torch.inf), dim=-1)
        gap = logp.where(known, 0.0) - torch.log_softmax(theirs, dim=-1).where(known, 0.0)
        return (logp.exp() * gap).sum(dim=-1)


def sampled_divergence(
    x: Float[Tensor, "*s"], estimator: Literal["k2", "k3"], cap: Float[Tensor, "*s"]
) -> Float[Tensor, "*s"]:
    """k2 or k3 of x = logp_teacher - logp; beyond +-cap it goes on along its tangent, so that its slope is bounded."""
    near = torch.minimum(torch.maximum(x, -cap), cap)
    value = near.square() / 2 if estimator == "k2" else near.exp() - near - 1
    slope = (near if estimator == "k2" else near.exp() - 1).detach()
    return value + slope * (x - near)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """How strongly each token is pulled to the teacher, decided once on the whole batch: columns for the two below.

    At step s of the run, from 0, the strength is max(beta - decrease * s, least) beside the policy gradient; with a
    `switch` it is 1 and the policy gradient 0 before that step, and the other way round from it on. mask: "response"
    pulls rows without success only, "group" groups without any. norm: a mean over "all" tokens, so that a mask lowers
    the pull, or over the "kept" ones. form: a "loss" term, or R at the sampling weights added to the "advantage": for
    batches that are used more than once, since a term is not clipped. cap: bound on |R| in nats, of its gradient too.
    The last token of a row counts for nothing where it ends a text for the policy and not for the teacher.
    """

    beta: float = 2e-3
    decrease: float = 0.0
    least: float = 0.0
    switch: int | None = None
    mask: Literal["none", "response", "group"] = "none"
    norm: Literal["all", "kept"] = "all"
    form: Literal["loss", "advantage"] = "loss"
    cap: float | None = None

    def __post_init__(self) -> None:
        if min(self.beta, self.decrease, self.least) < 0:
            raise ValueError("beta, decrease and least of the pull are numbers from 0 up: it never pushes away")
        if self.cap is not None and not self.cap > 0:
            raise ValueError(f"the cap on the log-ratio to the teacher is above 0 nats, not {self.cap}: 10 is usual")
        if self.form == "advantage" and self.norm == "kept":
            raise ValueError("an advantage is averaged as the policy gradient is: norm=kept goes with form=loss only")

    @property
    def needs(self) -> tuple[Need, ...]:
        """Both log-probs at the sampling weights, where they go into the advantage."""
        return (LOGP_OLD, LOGP_TEACHER) if self.form == "advantage" else ()

    @property
    def gives(self) -> tuple[str, ...]:
        """What an estimator of another gradient cannot live with."""
        return (IN_ADVANTAGE,) if self.form == "advantage" else ()

    def strength(self, step: int) -> tuple[float, float]:
        """(of the pull, of the policy gradient) at a step of the run."""
        if self.switch is not None:
            return (1.0, 0.0) if step < self.switch else (0.0, 1.0)
        return max(self.beta - self.decrease * step, self.least), 1.0

    def masked(self, batch: Batch) -> Bool[Tensor, " B"]:
        """The rows that are pulled."""
        if self.mask == "none":
            return batch.graded
        if self.mask == "response":
            return batch.graded & ~batch.success
        solved = group_max(batch.success.to(batch.score.dtype), batch.group, batch.graded) > 0
        return batch.graded & ~solved

    def __call__(self, batch: Batch) -> Batch:
        """Fills `pull`, `pull_over` (what the mean is taken over), `pull_advantage`, `pull_cap` and `pull_gradient`."""
        told = [self.strength(int(step)) for step in batch.column("step").tolist()]
        beta, gradient = batch.score.new_tensor(told).view(-1, 2).unbind(dim=1)
        shared = batch.live & ~batch.column("foreign_end")
        kept = shared & self.masked(batch)[:, None]
        pull, nothing = beta[:, None].where(kept, 0.0), torch.zeros(kept.shape, dtype=beta.dtype)
        cap = torch.full_like(beta, torch.inf if self.cap is None else self.cap)
        inside = self.form == "advantage"
        return batch.with_columns(
            pull=nothing if inside else pull,
            pull_over=shared if self.norm == "all" else kept,
            pull_advantage=self._advantage(batch, pull) if inside else nothing,
            pull_cap=cap,
            pull_gradient=gradient,
        )

    def _advantage(self, batch: Batch, pull: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        x = batch.column("logp_teacher").where(pull != 0, 0.0) - batch.logp_old.where(pull != 0, 0.0)
        return pull * (x if self.cap is None else x.clamp(-self.cap, self.cap))

    def report(self, batch: Batch) -> Metrics:
        """`pull`: the mean strength over live tokens, of the advantage's form the mean of what is added to it."""
        told = batch.column("pull") + batch.column("pull_advantage")
        return {"pull": (told.sum().item(), float(batch.live.sum().item()))}


@dataclass(frozen=True)
class TowardsTeacher:
    """The advantage, faded out while the teacher alone is listened to, plus what `Pull` puts into it."""

    def __call__(self, advantage: Float[Tensor, "B T"], batch: Batch) -> Float[Tensor, "B T"]:
        """A * pull_gradient + pull_advantage."""
        return advantage * batch.column("pull_gradient")[:, None] + batch.column("pull_advantage")


@dataclass(frozen=True, kw_only=True)
class Distil:
    """The mean over tokens of an estimate of the divergence from the teacher, weighted by `Pull`.

    estimator: k2 or k3 of the sampled token, KL(policy || teacher) over the whole vocabulary ("exact") or over the
    policy's `top` likeliest tokens ("topk"): the last two have the teacher say all its logits in every pass.
    """

    estimator: Literal["k1", "k2", "k3", "exact", "topk"] = "k2"
    top: int = 64
    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.estimator == "k1":
            raise ValueError("k1 of own samples has no expected gradient and teaches nothing as a loss: take k2")
        if self.top < 2:
            raise ValueError(f"the divergence over the likeliest tokens takes 2 or more of them, not {self.top}")

    @property
    def needs(self) -> tuple[Need, ...]:
        """The teacher's log-prob of each token, or the divergence itself in every pass."""
        if self.estimator in ("k2", "k3"):
            return (LOGP_TEACHER,)
        kind = ReverseKL(self.top if self.estimator == "topk" else 0)
        return (Need("divergence", kind, passes=("policy", "teacher"), when="now"),)

    @property
    def refuses(self) -> tuple[str, ...]:
        """Inside the advantage the gradient is that of k2."""
        return () if self.estimator == "k2" else (IN_ADVANTAGE,)

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The pull over the number of tokens that its mean is taken over; all 0 where nothing is pulled."""
        return batch.column("pull") / batch.column("pull_over").sum().clamp(min=1)

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """The estimate; metrics over the tokens of its mean: `kl_teacher`, and `teacher_far`, the share beyond 10."""
        over, live = batch.column("pull_over") & batch.live, batch.live
        count = float(over.sum().item())
        if self.estimator not in ("k2", "k3"):
            value = now.extra["divergence"].where(live, 0.0)
            return value, {"kl_teacher": (masked_sum(value.detach(), over).item(), count)}
        x = batch.column("logp_teacher").where(live, 0.0) - now.logp.where(live, 0.0)
        cap = batch.column("pull_cap").to(x.dtype)[:, None].expand_as(x)
        value = sampled_divergence(x, "k2" if self.estimator == "k2" else "k3", cap)
        far = (x.detach().abs() > FAR) & over
        return value, {
            "kl_teacher": (masked_sum(value.detach(), over).item(), count),
            "teacher_far": (float(far.sum().item()), count),
        }
