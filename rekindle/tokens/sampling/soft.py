"""Soft thinking while sampling: inputs are mixtures of embeddings until thinking ends (SofT-GRPO, arXiv 2511.06411)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from rekindle.core.soft import Thinking
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.draw import Draw, draw
from rekindle.tokens.sampling.rules import Step, Taken, single_id
from rekindle.tokens.slots import Judge


@dataclass(frozen=True)
class Soft:
    """Soft steps by `how`, then tokens as ever. end: the token that ends thinking, None where there is none.

    Columns: `soft_ids`, `soft_weight` (y; all 0 at tokens), `soft_noise` (g') and `soft_on` (ids with a share) [R K].
    The visible token of a soft step is its heaviest. Thinking ends where that is `end` or ends the response (that step
    is the token alone), or after how.steps steps, by a forced `end` that nobody chose. `logp_sampled` of a soft step is
    the log-prob of its visible token among the ids, which has that chance to be the heaviest.
    """

    how: Thinking
    end: int | None = None
    passes: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[bool] = True

    def __call__(self, step: Step) -> Taken:
        """The tokens of one step."""
        logits = step.logits["policy"]
        drawn = draw(logits, step.uniform, step.settings, step.place)
        thinking = self._thinking(step)
        forced = thinking & (self.end is not None) & (0 < self.how.steps <= step.place)
        soft = thinking & ~forced & ((self.how.steps == 0) | (step.place < self.how.steps))
        tempered = logits / step.settings.temperature
        ids, share = self.how.likely(tempered)
        noisy = self.how.perturbed(share, step.more(ids.shape[1]))
        weight = self.how.mixture(noisy)
        heaviest = weight.argmax(dim=1, keepdim=True)
        visible = ids.gather(1, heaviest)[:, 0]
        logp = torch.log_softmax(tempered, dim=-1).gather(1, visible[:, None])[:, 0]
        said = share.gather(1, heaviest)[:, 0].log()
        token = torch.where(soft, visible, drawn.token)
        token = token if self.end is None else token.masked_fill(forced, self.end)
        taken = Draw(
            token,
            torch.where(soft, logp, drawn.logp),
            torch.where(soft, said.to(logp.dtype), drawn.logp_sampled),
            drawn.entropy,
        )
        mixes = (soft & ~step.ends[token] & (token != (-1 if self.end is None else self.end)))[:, None]
        columns = {
            "soft_ids": ids.where(mixes, 0),
            "soft_weight": weight.where(mixes, 0.0),
            "soft_noise": noisy.where(mixes, 0.0),
            "soft_on": (share > 0) & mixes,
        }
        return Taken(taken, columns, forced, (columns["soft_ids"], columns["soft_weight"]))

    def _thinking(self, step: Step) -> Bool[Tensor, " R"]:
        """Rows that have not drawn the end marker, nor had it forced on them."""
        rows = torch.ones_like(step.uniform, dtype=torch.bool)
        return rows if self.end is None else ~(step.before == self.end).any(dim=1)


@dataclass(frozen=True)
class SoftSteps:
    """The same number of samples for every prompt, drawn by soft thinking as the objective of the record has it."""

    def rule(self, run: Any) -> Soft:
        """Soft thinking as the objective has it. InputError where the end marker is not one token."""
        how: Thinking = run.record.objective.thinking
        return Soft(how, single_id(run.tokenizer, how.end, "objective.thinking.end") if how.end else None)

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Responses to every example."""
        return run.sample(examples, self.rule(run))
