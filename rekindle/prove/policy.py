"""A table of logits as a policy: scored like a language model; its hidden state is the one-hot vector of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rekindle.core.random import uniforms
from rekindle.core.types import Batch, Need, Now, Seen, entropy_of, taken
from rekindle.errors import InputError
from rekindle.prove.world import World
from rekindle.tokens.passes import where_of
from rekindle.tokens.sampling.rules import Taken


@dataclass(frozen=True, eq=False)
class Walk:
    """Responses of a table: ids, mask (False at tokens of the environment and after the end), log-probs, entropies.

    sampled: log-probs under what was drawn from. extra: a rule's columns.
    """

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    logp: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    length: Int[Tensor, " B"]
    sampled: Float[Tensor, "B T"]
    extra: Mapping[str, Tensor]


Choose = Callable[[Tensor, Tensor, Tensor], Taken]
"""(states [N], tokens before [N t], a uniform each [N]) -> what is drawn there."""


@dataclass(frozen=True, eq=False)
class OneHot(Mapping[str, Tensor]):
    """Hidden states by pass name, made when asked for: most columns never look at them."""

    models: Mapping[str, TablePolicy]
    state: Int[Tensor, " N"]

    def __getitem__(self, name: str) -> Float[Tensor, "N R"]:
        """One-hot vectors of the table rows."""
        model = self.models[name]
        return torch.nn.functional.one_hot(model.world.row[self.state], len(model.table)).double()

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


class TablePolicy(nn.Module):
    """The policy of a world. heads: scalar heads, one number a table row, that start at 0."""

    def __init__(self, world: World, heads: Sequence[str] = ()) -> None:
        super().__init__()
        self.world = world
        self.table = nn.Parameter(world.table.clone())
        zeros = torch.zeros(len(world.table), dtype=torch.float64)
        self.heads = nn.ParameterDict({name: nn.Parameter(zeros.clone()) for name in heads})

    def logits(self, state: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits of states."""
        return self.table[self.world.row[state]] + self.world.bias[state]

    def forward(
        self, batch: Batch, joint: Sequence[Need] = (), references: Mapping[str, TablePolicy] = MappingProxyType({})
    ) -> Now:
        """Log-probs, entropies, head values and joint needs of a batch; 0 off the mask."""
        state = self.world.states(batch)[batch.mask]
        logp = torch.log_softmax(self.logits(state), dim=-1)
        extra = {name: _scatter(batch, head[self.world.row[state]]) for name, head in self.heads.items()}
        seen = self._seen(batch, references) if joint else None
        extra |= {need.name: _scatter(batch, need.compute(seen)) for need in joint if seen is not None}
        own = taken(logp, batch.action[batch.mask])
        return Now(logp=_scatter(batch, own), entropy=_scatter(batch, entropy_of(logp)), extra=extra)

    @torch.no_grad()
    def columns(self, batch: Batch, needs: Sequence[Need], references: Mapping[str, TablePolicy]) -> dict[str, Tensor]:
        """The columns that `needs` name, from one pass a policy: [B T], or a mean a row."""
        seen = self._seen(batch, references)
        found = {need.name: (need, need.compute(seen)) for need in needs}
        return {n: (_row_means if need.per == "row" else _scatter)(batch, v) for n, (need, v) in found.items()}

    def _seen(self, batch: Batch, references: Mapping[str, TablePolicy]) -> Seen:
        """All passes side by side; a gradient flows through the policy's logits alone."""
        state = self.world.states(batch)[batch.mask]
        row, (columns, at) = self.world.row[state], where_of(batch, self.table.device)
        others = {name: model.logits(state).detach() for name, model in references.items()}
        models = {"policy": self, **references}
        return Seen(
            logits={"policy": self.logits(state), **others},
            hidden=OneHot(models, state),
            weight={name: model.table.detach().T for name, model in models.items()},
            values={name: head[row] for name, head in self.heads.items()},
            action=batch.action[batch.mask],
            columns=columns,
            at=at,
        )

    @torch.no_grad()
    def walk(
        self,
        start: Int[Tensor, " B"],
        uid: Int[Tensor, " B"],
        key: Int[Tensor, ""],
        greedy: bool = False,
        choose: Choose | None = None,
    ) -> Walk:
        """Responses from the states `start`, drawn by (key, uid, position), or the most likely ones.

        choose: draws the policy's tokens in place of that.
        """
        world, shape = self.world, (len(start), self.world.length)
        draws = uniforms(key, uid, world.length)
        ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        said, spread = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        state, length, sampled, steps = start, torch.zeros_like(start), said.clone(), []
        for t in range(world.length):
            alive = state >= 0
            here = state.clamp(min=0)
            logp = torch.log_softmax(self.logits(here), dim=-1)
            ladder = logp.exp().cumsum(dim=1)
            token = (ladder <= (draws[:, t] * ladder[:, -1])[:, None]).sum(dim=1)
            token = torch.where(world.chosen[here], logp.argmax(dim=1), token) if greedy else token
            if choose is not None:
                steps.append(choose(here, ids[:, :t], draws[:, t]))
                token = token.where(~world.chosen[here], steps[-1].drawn.token)
            own, token = alive & world.chosen[here], token.where(alive, 0)
            ids[:, t], mask[:, t], length = token, own, length + alive
            said[:, t] = taken(logp, token).where(own, 0.0)
            sampled[:, t] = steps[-1].drawn.logp_sampled.where(own, 0.0) if steps else said[:, t]
            spread[:, t] = entropy_of(logp).where(own, 0.0)
            state = torch.where(alive, world.follow[here, token], -1)
        names = steps[0].extra if steps else ()
        extra = {name: torch.stack([step.extra[name] for step in steps], dim=1) for name in names}
        return Walk(ids, mask, said, spread, length, sampled, extra)


def _scatter(batch: Batch, values: Float[Tensor, "N *K"]) -> Float[Tensor, "B T *K"]:
    zeros = torch.zeros((*batch.mask.shape, *values.shape[1:]), dtype=values.dtype)
    return zeros.index_put((batch.mask,), values) if values.dim() > 1 else zeros.masked_scatter(batch.mask, values)


def _row_means(batch: Batch, values: Float[Tensor, "N *K"]) -> Float[Tensor, "B *K"]:
    total = torch.zeros((len(batch), *values.shape[1:]), dtype=values.dtype)
    total = total.index_add(0, batch.mask.nonzero()[:, 0], values)
    return total / batch.mask.sum(dim=1).clamp(min=1).view(-1, *[1] * (values.dim() - 1))


def passes_of(world: World, named: set[str]) -> dict[str, TablePolicy]:
    """The start weights as every pass in `named`, the world's teacher as "teacher"; InputError where it has none."""
    taught = [] if world.teacher is None else [("teacher", world.taught())]
    names = sorted({"reference", *named} - {"policy", *(name for name, _ in taught)})
    if "teacher" in names:
        raise InputError("the method learns from a teacher, and this bed has none: name a bed that has one")
    return {name: TablePolicy(one) for name, one in [*((name, world) for name in names), *taught]}
