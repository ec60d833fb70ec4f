"""Rules of sampling on a table world: the same rules as a language model's, but for those that mix embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from rekindle.errors import InputError
from rekindle.prove.policy import Choose, TablePolicy
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.rules import Step, StepRule, Taken, more_uniforms


def chosen_by(
    rule: StepRule, policy: TablePolicy, references: Mapping[str, TablePolicy], drawn: tuple[Tensor, Tensor]
) -> Choose:
    """What `TablePolicy.walk` chooses tokens by. drawn: (key, uids). InputError where a rule wants embeddings."""
    if rule.mixes:
        raise InputError(f"{type(rule).__name__} mixes embeddings and a table world has none: use a language bed")
    tables, (key, uid) = {"policy": policy, **{name: references[name] for name in rule.passes}}, drawn
    never = torch.zeros(policy.table.shape[1], dtype=torch.bool)

    def choose(state: Int[Tensor, " N"], before: Int[Tensor, "N t"], uniform: Float64[Tensor, " N"]) -> Taken:
        logits = {name: table.logits(state) for name, table in tables.items()}
        return rule(Step(logits, before, uniform, more_uniforms(key, uid, before.shape[1]), Sampling(), (), never))

    return choose
