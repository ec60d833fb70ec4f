"""A method's advantages as an advantage estimator of verl 0.9.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.returns import KLInReward
from rekindle.errors import InputError
from rekindle.interop.verl.handed import batch_of, groups_of
from rekindle.interop.verl.shares import ALGORITHM, algorithm_options, check_options


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """The method's `prepare`, `advantage` and `modulate` on verl's rewards, over the whole batch of a step.

    The score of a row is the sum of its token rewards. A KL inside the reward (`KLInReward`) is verl's to charge
    (`algorithm.use_kl_in_reward`), compared with the method's at every call; its token rewards are then ours. verl's
    `uid` are the groups. Rows without a token (padding, and what verl's rejection leaves) are in no group's statistics;
    verl's own estimators count them with the score 0.
    """

    method: PolicyGradient
    name: str

    def __call__(
        self,
        token_level_rewards: Float[Tensor, "B T"],
        response_mask: Shaped[Tensor, "B T"],
        index: Sequence[Any] | Any = None,
        config: Any = None,
        reward_baselines: Float[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """(advantages [B T], the same again for verl's column `returns`, which only its metrics read then).

        index: the uid of each row's prompt. reward_baselines: the score of a greedy response, taken off the score.
        InputError where groups are compared and there is no index, or verl's algorithm is not set as the method wants.
        """
        check_options({} if config is None else config, algorithm_options(self.method), self.name, ALGORITHM)
        if index is None and self.method.advantage.needs_group:
            raise InputError(f"{self.name} compares the responses to a prompt, and verl gave no uid: pass index")
        rewards = token_level_rewards.detach().where(response_mask.bool(), 0.0)
        score = rewards.sum(dim=1)
        score = score if reward_baselines is None else score - reward_baselines
        group = groups_of(range(len(score)) if index is None else list(index), score.device)
        batch = batch_of(response_mask, score, group).with_columns(reward=rewards)
        with torch.no_grad():
            rest = tuple(part for part in self.method.prepare if not isinstance(part, KLInReward))
            found = self.method.replace(prepare=rest).credit(batch).advantage
        return found, found.clone()
