"""Tokens within a mask: what the copy psi of the policy finds likely (NLPO, arXiv 2210.01241)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from rekindle.core.allowed import MASK, Allowed, with_tokens
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.draw import draw
from rekindle.tokens.sampling.rules import Step, Taken, special_ids
from rekindle.tokens.slots import Judge


@dataclass(frozen=True)
class InMask:
    """Draws from the policy within the mask, at the sampling temperature, then by top-k and top-p as ever.

    Special tokens are always allowed. `logp` and `entropy` of the draw are those of the policy without the mask.
    """

    allowed: Allowed
    mixes: ClassVar[bool] = False

    @property
    def passes(self) -> tuple[str, ...]:
        """The copy psi, where the mask is made from it."""
        return (MASK,) if self.allowed.learned else ()

    def __call__(self, step: Step) -> Taken:
        """The tokens; with "topk" the column `kept_ids` [R k]. ValueError where nothing is allowed."""
        logits = step.logits["policy"]
        if self.allowed.off:
            return Taken(draw(logits, step.uniform, step.settings, step.place))
        allowed = self.allowed(step.logits[MASK if self.allowed.learned else "policy"] / step.settings.temperature)
        special = torch.tensor(step.special, dtype=torch.int64, device=logits.device).expand(len(logits), -1)
        drawn = draw(
            logits.masked_fill(~with_tokens(allowed, special), -torch.inf), step.uniform, step.settings, step.place
        )
        logp = torch.log_softmax(logits / step.settings.temperature, dim=-1)
        drawn = drawn._replace(
            logp=logp.gather(1, drawn.token[:, None])[:, 0], entropy=-torch.special.xlogy(logp.exp(), logp.exp()).sum(1)
        )
        if self.allowed.learned:
            return Taken(drawn)
        return Taken(drawn, {"kept_ids": logits.argsort(dim=-1, descending=True, stable=True)[:, : self.allowed.k]})


@dataclass(frozen=True)
class DrawWithinMask:
    """The same number of samples for every prompt, drawn within the mask that the objective of the record has."""

    def rule(self, run: Any) -> InMask:
        """The mask of the objective."""
        return InMask(run.record.objective.allowed)

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Responses to every example."""
        return run.sample(examples, self.rule(run))


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that no mask leaves out, at every token [B T S]."""

    name: ClassVar[str] = "special"

    def __call__(self, rollouts: Rollouts, run: Any) -> Int[Tensor, "B T S"]:
        """Those of the run's tokenizer."""
        ids = torch.tensor(special_ids(run.tokenizer), dtype=torch.int64)
        return ids.expand(*rollouts.ids.shape, -1)
