"""Whether the local sampler drew from what is trained: its log-probs beside those that the update computes anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.types import Batch, concat_sequences
from rekindle.errors import GuardStop
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.drawn import drawn
from rekindle.train.loud import Level, raise_level
from rekindle.train.settings import RunConfig

if TYPE_CHECKING:
    from rekindle.train.run import Run

ALLOWED = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 1e-2}
"""Mean |difference| in nats by number format: 3e-6 was seen in float32; as for engines apart (docs/vllm.md)."""
STOP = 100.0
"""Times what is allowed, from which a run stops: a wrong temperature or weights, no rounding."""
SAID = "said"
"""In `run.live`: what the sampler said in a step that was stopped before its first update."""


@dataclass(frozen=True, eq=False)
class Said:
    """Rows that the sampler drew from the policy alone, token by token, and its log-prob of each."""

    uid: Int[Tensor, " B"]
    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    logp: Float[Tensor, "B T"]

    @staticmethod
    def of(seen: Rollouts) -> Said | None:
        """Of a round; None where its log-probs are unknown, or its rows are of a sampling rule or of the data."""
        if seen.logp is None or seen.extra or seen.given is not None:
            return None
        rows = drawn(seen)
        return Said(seen.uid[rows], seen.ids[rows], seen.mask[rows], seen.logp[rows])


def said(run: Run) -> Sequence[Said]:
    """What the local sampler said in this step, round by round; of one that is gone on with, as it was saved."""
    found = [one for seen, _ in run.last_rollouts if (one := Said.of(seen)) is not None]
    return run.live.get(SAID, found)


def said_tensors(run: Run) -> dict[str, Tensor]:
    """What a checkpoint before a step's first update holds of it: `said.ROUND.NAME`."""
    if run.sampler.apart is not None:
        return {}
    return {f"{SAID}.{i}.{name}": value for i, one in enumerate(said(run)) for name, value in vars(one).items()}


def said_before(tensors: Mapping[str, Tensor]) -> list[Said]:
    """From what `said_tensors` gave."""
    rounds = sorted({int(key.split(".")[1]) for key in tensors})
    own = [{key.split(".")[2]: value for key, value in tensors.items() if key.split(".")[1] == str(i)} for i in rounds]
    return [Said(uid=one["uid"], ids=one["ids"], mask=one["mask"], logp=one["logp"]) for one in own]


def allowed(config: RunConfig) -> float:
    """The mean difference that is no warning: `guards.gap`, else by the format that the products are computed in."""
    if config.guards.gap is not None:
        return config.guards.gap
    coarse = config.precision == "bf16" or config.lora.quantize != "none"
    return ALLOWED["bfloat16" if coarse else config.dtype]


def agree(run: Run, part: Batch, logp: Float[Tensor, "B T"], index: int) -> None:
    """Compare a step's first minibatch, at the weights that sampled it, with what the local sampler said.

    logp: of the update's own pass. A mean difference above `allowed` is a warning, above `STOP` times that a GuardStop.
    """
    if index or run.sampler.apart is not None:
        return
    far = [gap for seen in said(run) if len(gap := gaps(part, logp, seen))]
    if not far:
        return
    both = torch.cat(far)
    mean, most, limit = both.mean().item(), both.max().item(), allowed(run.resolved.config)
    remedy = "look at dtype, precision and rollout.temperature, and at whatever changes the model between both"
    if mean > STOP * limit:
        raise GuardStop(
            f"step {run.step_index}: the sampler's log-probs of {len(both)} tokens are not those of the training "
            f"model: mean difference {mean:.2g} nats (a warning above {limit:g}, a stop above {STOP * limit:g}), "
            f"largest {most:.2g}; {remedy}, or raise guards.gap"
        )
    numbers = {"mean": mean, "largest": most, "allowed": limit, "tokens": len(both)}
    raise_level(run, Level("the sampler's log-probs are not those of the training model", mean, limit, numbers, remedy))


def gaps(part: Batch, logp: Float[Tensor, "B T"], seen: Said) -> Float[Tensor, " N"]:
    """|log-prob by the policy - by the sampler| of every token of the rows that both hold, token for token."""
    mine, theirs = (part.uid[:, None] == seen.uid).nonzero().unbind(dim=1)
    if not len(mine):
        return torch.zeros(0, dtype=torch.float64)
    left = torch.cat([part.action[mine], part.mask[mine]], dim=1).reshape(len(mine), 2, -1)
    right = torch.cat([seen.ids[theirs], seen.mask[theirs]], dim=1).reshape(len(mine), 2, -1)
    width = max(left.shape[2], right.shape[2])
    a, b = (torch.nn.functional.pad(one, (0, width - one.shape[2])) for one in (left, right))
    same = ((a[:, 1] == b[:, 1]) & ((a[:, 0] == b[:, 0]) | (a[:, 1] == 0))).all(dim=1)
    both = concat_sequences([logp.detach()[mine[same]].double(), seen.logp[theirs[same]].double()])
    ours, said = both.split([int(same.sum())] * 2)
    on = torch.nn.functional.pad(part.live[mine[same]], (0, both.shape[1] - part.live.shape[1]))
    return (ours - said).abs()[on]
