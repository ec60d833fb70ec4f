"""The decoding loop under a rule (`StepRule`): several models in lockstep, tokens or mixtures of tokens as inputs.

Plainer and slower than `decode.Decoder`: every row has its prompt in its cache. Where a rule changes nothing it draws
the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from rekindle.tokens.heads import split
from rekindle.tokens.lora import Weights, at
from rekindle.tokens.mixture import blended, embedding, mix_of
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.cache import Repeated
from rekindle.tokens.sampling.decode import Prompts, prefill
from rekindle.tokens.sampling.draw import Draw
from rekindle.tokens.sampling.rules import Step, StepRule, Taken, more_uniforms
from rekindle.tokens.sampling.stops import StopWatch

_DROP_SHARE = 0.25  # share of finished rows at which the others are copied without them


@dataclass(frozen=True, eq=False)
class Ruled:
    """A rule with the weights that run in lockstep with the policy's, by name."""

    rule: StepRule
    beside: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Block:
    """What is drawn for B rows: their settings, their numbers, and what ends them."""

    settings: Sampling
    key: Int[Tensor, ""]
    uid: Int[Tensor, " B"]
    uniform: Float64[Tensor, "B M"]
    ends: Bool[Tensor, " V"]
    special: tuple[int, ...]


class Lane:
    """One model and its cache of the live rows."""

    def __init__(self, weights: Weights, prompts: Prompts, n: int) -> None:
        """The prompts run once, `n` rows each."""
        self.weights = weights
        with at(weights) as model:
            self.parts, self.table = split(model, probe=False), embedding(model)
            cache, seen, hidden = prefill(model, self.parts, prompts)
        self.store, self.hidden = Repeated(cache, seen, n), hidden.repeat_interleave(n, 0)

    def logits(self) -> Float[Tensor, "R V"]:
        """Of the next token of each row, at temperature 1."""
        with at(self.weights):
            return self.parts.logits(self.hidden)

    def keep(self, order: Int[Tensor, " K"]) -> None:
        """Row i becomes what row order[i] is; the others are gone."""
        self.store.keep(order)
        self.hidden = self.hidden[order]

    def feed(self, token: Int[Tensor, " R"], mix: tuple[Tensor, Tensor] | None, position: Int[Tensor, " R"]) -> None:
        """One input more for each row: its token, or a mixture of tokens."""
        with at(self.weights):
            given = {"input_ids": token[:, None]}
            if mix is not None:
                given = {"inputs_embeds": blended(self.table, token, mix_of(*mix))[:, None]}
            out = self.parts.backbone(
                position_ids=position[:, None], use_cache=True, return_dict=True, **given, **self.store.inputs()
            )
        self.hidden = out.last_hidden_state[:, -1]


class Tables:
    """What the rows drew: [B M] for each number of a `Draw`, [B M *] for each column of a rule; 0 behind the end."""

    def __init__(self, rows: int, most: int, device: torch.device) -> None:
        self.size = torch.zeros(rows, dtype=torch.int64, device=device)
        self.most = most
        self.columns: dict[str, Tensor] = {}

    def write(self, row: Int[Tensor, " R"], place: int, taken: Taken) -> None:
        """What these rows drew at `place`."""
        forced = torch.zeros_like(row, dtype=torch.bool) if taken.forced is None else taken.forced
        for name, values in {**taken.drawn._asdict(), **taken.extra, "forced": forced}.items():
            if name not in self.columns:
                shape = (len(self.size), self.most, *values.shape[1:])
                self.columns[name] = torch.zeros(shape, dtype=values.dtype, device=values.device)
            self.columns[name][row, place] = values
        self.size[row] = place + 1

    def drawn(self) -> tuple[Draw, dict[str, Tensor]]:
        """The draws, and all other columns (`forced` among them), on the CPU and as wide as the longest row."""
        found = {name: table[:, : int(self.size.max())].cpu() for name, table in self.columns.items()}
        return Draw(*(found.pop(name) for name in Draw._fields)), found


def stepwise(
    lanes: Mapping[str, Lane], position: Int[Tensor, " B"], block: Block, rule: StepRule, watch: StopWatch | None
) -> Tables:
    """Responses of the rows of all `lanes`, of which "policy" is one. position: of each row's first own token.

    Raises `GuardStop` on logits that are not finite.
    """
    most, device = block.settings.max_tokens, position.device
    tables = Tables(len(position), most, device)
    row, before = torch.arange(len(position), device=device), torch.zeros_like(block.uniform, dtype=torch.int64)
    alive = torch.ones_like(row, dtype=torch.bool)
    for place in range(most):
        logits = {name: lane.logits() for name, lane in lanes.items()}
        more = more_uniforms(block.key, block.uid[row.cpu()], place, device)
        seen = (before[row, :place], block.uniform[row, place], more)
        taken = rule(Step(logits, *seen, block.settings, block.special, block.ends))
        token = taken.drawn.token
        tables.write(row[alive], place, _of(taken, alive))
        before[row, place] = token
        alive = alive & ~block.ends[token]
        if watch is not None:
            alive = alive & ~watch.step(row, torch.full_like(row, place), token, alive)
        left = int(alive.sum())
        if not left or place + 1 == most:
            break
        mix = taken.mix
        if len(row) - left >= _DROP_SHARE * len(row):
            order = alive.nonzero()[:, 0]
            row, alive, token = row[order], alive[order], token[order]
            mix = None if mix is None else (mix[0][order], mix[1][order])
            for lane in lanes.values():
                lane.keep(order)
        for lane in lanes.values():
            lane.feed(token, mix, position[row] + place)
    return tables


def _of(taken: Taken, rows: Bool[Tensor, " R"]) -> Taken:
    """What the rows drew that are not finished."""
    return Taken(
        Draw(*(values[rows] for values in taken.drawn)),
        {name: values[rows] for name, values in taken.extra.items()},
        None if taken.forced is None else taken.forced[rows],
    )
