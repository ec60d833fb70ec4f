"""A method's objective as a policy loss of verl 0.9.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from rekindle.core.masked import masked_mean
from rekindle.core.method import PolicyGradient, weighted_sum
from rekindle.core.ratios import log_ratio
from rekindle.core.types import Batch, Metrics, Now, add_metrics
from rekindle.interop.verl.handed import loss_batch
from rekindle.interop.verl.reach import setting
from rekindle.interop.verl.shares import ACTOR, actor_options, budget, check_options, part_of_whole


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The method's `objective`, `keep` and `aggregate`, called as verl calls a policy loss.

    Ours: the loss of each token, the mask of those kept, and the weights of the average, in which every token of the
    micro-batch has the weight that the whole minibatch gives it. verl's: the size of the global batch, by which these
    weights are scaled (`global_batch_info`: `batch_num_tokens` for a mean over tokens, `global_batch_size` for one
    over rows, `dp_size`); the weights against the mismatch of sampler and trainer (`rollout_is_weights`), which
    multiply the loss of each token; and the entropy bonus and the KL to the reference, which its actor adds to the
    loss: their coefficients are compared with the method's at every call, and another one is an InputError.

    Not known here, and so not exact: an objective that looks at the whole minibatch (`separable` false: Clip-Cov,
    KL-Cov, BAPO) sees a micro-batch of one rank; a method with `keep` divides by the tokens kept in the micro-batch,
    scaled by the share of all its tokens. Both are exact where a minibatch is one micro-batch on one rank. Groups are
    not known: rows without any advantage are left out of the pool of KL-Cov and Clip-Cov, as whole groups would be.
    Random choices are drawn by a hash of a row's log-probs.
    """

    method: PolicyGradient
    name: str

    def __call__(
        self,
        old_log_prob: Float[Tensor, "B T"],
        log_prob: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"],
        response_mask: Shaped[Tensor, "B T"],
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Float[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Any]]:
        """(loss, metrics): the metrics of the parts under `actor/`, each the mean over this micro-batch.

        loss_agg_mode, config: verl's; InputError where they are not what the method wants.
        """
        wanted = actor_options(self.method)
        check_options(
            {"loss_agg_mode": loss_agg_mode}, {"loss_agg_mode": wanted.pop("loss_agg_mode")}, self.name, ACTOR
        )
        check_options(config, wanted, self.name, ACTOR)
        limit = budget(self.method, config, self.name)
        batch, now = loss_batch(old_log_prob, log_prob, advantages, response_mask, limit)
        weights = self.weights(now.detach(), batch, setting(config, "global_batch_info") or {})
        values, metrics = self.method.objective(now, batch)
        if rollout_is_weights is not None:
            values = values * rollout_is_weights
        return weighted_sum(weights, values), shown(metrics, now, batch, weights)

    def weights(self, now: Now, batch: Batch, info: Mapping[str, Any]) -> Float[Tensor, "B T"]:
        """The weight of each token in the loss of verl's global batch."""
        kept = batch.live
        for keep in self.method.keep:
            kept = kept & keep(now, batch)
        return self.method.aggregate(batch, kept) * part_of_whole(self.method.aggregate, batch.live, info, self.name)


def shown(metrics: Metrics, now: Now, batch: Batch, weights: Float[Tensor, "B T"]) -> dict[str, Any]:
    """Metrics as verl takes them: a number each, 0 where a mean is over nothing, for verl wants the same names always.

    `actor/ppo_kl` is the mean of logp_old - logp, as in verl's own losses; `actor/kept` the share of tokens that count.
    """
    kept = (weights != 0) & batch.live
    counts = (float(kept.sum().item()), float(batch.live.sum().item()))
    told = add_metrics(metrics, {"kept": counts})
    moved = masked_mean(log_ratio(now.detach(), batch), batch.live)
    numbers = {f"actor/{name}": value / count if count else 0.0 for name, (value, count) in told.items()}
    return numbers | {"actor/ppo_kl": -moved.item()}
