"""Losses on preferences between the responses to a prompt: DPO's, IPO's and PRO's. Conventions of TRL's DPOTrainer.

h is a response's log-ratio to the reference, summed over its tokens; w and l are the better and the worse of a pair.
Each takes the mean over a prompt's pairs: go with `PairedPrompts(which="preferred")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rekindle.core.groups import group_count, group_sum
from rekindle.core.pairs import Pairs, of_prompts, preferred_pairs, ranked_pairs, row_log_ratio, row_sum
from rekindle.core.types import LOGP_REF, Batch, Metrics, Need, Now


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """-log sigmoid(z) with z = beta * (h_w - h_l): DPO (Rafailov et al., arXiv 2305.18290).

    smoothing: the share e of preferences held to be wrong: -(1 - e) log sigmoid(z) - e log sigmoid(-z); with `robust`,
    (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2 e), unbiased under such noise. length_norm: h is a mean over
    tokens (TRL's sigmoid_norm).
    """

    beta: float = 0.1
    smoothing: float = 0.0
    robust: bool = False
    length_norm: bool = False
    separable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta of the logistic loss is a number above 0, not {self.beta}: 0.1 is usual")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing is the share of wrong preferences, from 0 to below 0.5, not {self.smoothing}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(each prompt's mean loss on its live tokens; metrics as in `pair_metrics`)."""
        pairs = preferred_pairs(batch)
        margin = margins(now, batch, pairs, self.length_norm)
        z, e = self.beta * margin, self.smoothing
        loss = -(1 - e) * logsigmoid(z) + (e if self.robust else -e) * logsigmoid(-z)
        loss = loss / (1 - 2 * e) if self.robust else loss
        return of_prompts(pairs.prompt_mean(loss), batch), pair_metrics(now, batch, pairs, margin)


@dataclass(frozen=True, kw_only=True)
class Squared:
    """(h_w - h_l - 1 / (2 tau))^2: IPO (Azar et al., arXiv 2310.12036). length_norm: h is a mean over tokens (TRL)."""

    tau: float = 0.1
    length_norm: bool = False
    separable: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = (LOGP_REF,)

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau of the squared loss is a number above 0, not {self.tau}: 0.1 is usual")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(each prompt's mean loss on its live tokens; metrics as in `pair_metrics`)."""
        pairs = preferred_pairs(batch)
        margin = margins(now, batch, pairs, self.length_norm)
        loss = (margin - 1 / (2 * self.tau)).square()
        return of_prompts(pairs.prompt_mean(loss), batch), pair_metrics(now, batch, pairs, margin)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Each response against all that rank below it: PRO (Song et al., arXiv 2306.17492), no reference.

    With S the mean log-prob a token, R the scores, best first, and T_k = max over j > k of R_k - R_j: the sum over k of
    log(exp(S_k T_k) + sum over j > k of exp(S_j (R_k - R_j))) - S_k T_k, plus sft * (K - 1)^2 * (-log p of the best
    response, a sum over tokens).
    """

    sft: float = 0.05
    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sft >= 0:
            raise ValueError(f"sft is the weight of the best response's likelihood, 0 or more, not {self.sft}")

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """(each prompt's loss on its live tokens; metrics as in `pair_metrics`, margins of mean log-probs)."""
        pairs, rows, mean = ranked_pairs(batch), batch.live_rows, row_sum(now.logp, batch, mean=True)
        below = group_count(batch.group, rows) - 1
        best = rows & ~torch.isin(torch.arange(len(batch), device=rows.device), pairs.second)
        fit = -self.sft * below.square() * row_sum(now.logp, batch)
        loss = group_sum(_against_lower(mean, batch, pairs) + fit.where(best, 0.0), batch.group, rows)
        stated = preferred_pairs(batch)
        return of_prompts(loss, batch), pair_metrics(now, batch, stated, mean[stated.first] - mean[stated.second])


def _against_lower(mean: Float[Tensor, " B"], batch: Batch, pairs: Pairs) -> Float[Tensor, " B"]:
    """log(1 + sum over the lower of exp(S_j (R_k - R_j) - S_k T_k)) of each row k, 0 for the lowest."""
    gap = batch.score[pairs.first] - batch.score[pairs.second]
    sharp = gap.new_zeros(len(batch)).scatter_reduce(0, pairs.first, gap, "amax")
    z = mean[pairs.second] * gap - (mean * sharp)[pairs.first]
    top = z.detach().new_zeros(len(batch)).scatter_reduce(0, pairs.first, z.detach(), "amax")
    return top + (-top).exp().index_add(0, pairs.first, (z - top[pairs.first]).exp()).log()


def margins(now: Now, batch: Batch, pairs: Pairs, mean: bool) -> Float[Tensor, " N"]:
    """h_w - h_l of each pair, h summed over tokens or their mean."""
    h = row_log_ratio(now, batch, "logp_ref", mean)
    return h[pairs.first] - h[pairs.second]


def pair_metrics(now: Now, batch: Batch, pairs: Pairs, margin: Float[Tensor, " N"]) -> Metrics:
    """Means over pairs: margin, share with a margin above 0, and log p a token of the better and worse response."""
    mean, count, margin = row_sum(now.logp.detach(), batch, mean=True), float(len(pairs)), margin.detach()
    return {
        "pair/margin": (margin.sum().item(), count),
        "pair/accuracy": (float((margin > 0).sum().item()), count),
        "pair/logp_better": (mean[pairs.first].sum().item(), count),
        "pair/logp_worse": (mean[pairs.second].sum().item(), count),
    }
