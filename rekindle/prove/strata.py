"""The bed `strata`: the first token chooses one of three kinds of response, a skill is learned within each.

The bandit behind Stratified GRPO (Zhu et al., arXiv 2510.06214). The kinds make 0, 1 and 2 calls, each a line, so that
a response of kind k has k + 1 steps; the last token, drawn by the environment, says whether it succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rollouts import Example

KINDS, SKILLS, CALL, RIGHT, WRONG = "abc", "12345678", "q\n", "+", "-"
TOKENS = (*KINDS, *SKILLS, "q", "\n", RIGHT, WRONG)
CEILING, BASE = (0.35, 0.70, 1.00), (0.30, 0.05, 0.00)
"""Success with the right skill (the first) and with any other, by kind."""


@dataclass(frozen=True, kw_only=True)
class Strata:
    """One prompt; the policy has a row of three logits for the kind and one of eight for each kind's skill."""

    metrics: ClassVar[tuple[str, ...]] = ("reward", "top", "entropy")

    def world(self, seed: int) -> World:
        """States: the choice, the calls of each kind, the skills, the outcomes."""
        states = _States()
        choice = states.add(KINDS)
        rows = {choice: 0}
        for kind, name in enumerate(KINDS):
            at = choice, name
            for token in CALL * kind:
                at = (states.enter(at, token), token)
            skill = states.enter(at, SKILLS)
            rows[skill] = 1 + kind
            for token in SKILLS:
                states.outcome((skill, token), CEILING[kind] if token == SKILLS[0] else BASE[kind])
        example = Example("0", "call or not", RIGHT)
        row = torch.tensor([rows.get(state, 1 + len(KINDS)) for state in range(len(states.follow))])
        return World(
            tokens=TOKENS,
            start={example.prompt: choice},
            follow=torch.tensor(states.follow),
            row=row,
            bias=torch.tensor(states.bias, dtype=torch.float64),
            chosen=torch.tensor(states.chosen),
            table=torch.zeros(2 + len(KINDS), len(TOKENS), dtype=torch.float64),
            length=3 + len(CALL) * (len(KINDS) - 1),
            task=TableTask(examples=[example], answer=lambda text: text[-1:]),
        )

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact: expected reward, probability of the kind with the highest ceiling, entropy of the choice (nats)."""
        share, skill = shares(run.policy.table.detach())
        ceiling, base = torch.tensor(CEILING, dtype=torch.float64), torch.tensor(BASE, dtype=torch.float64)
        return {
            "reward": (share * (skill * ceiling + (1 - skill) * base)).sum().item(),
            "top": share[-1].item(),
            "entropy": -torch.special.xlogy(share, share).sum().item(),
        }


def shares(table: Float[Tensor, "R V"]) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """The probability of each kind, and of the right skill within each."""
    kinds, skills = len(KINDS), len(KINDS) + len(SKILLS)
    skill = torch.softmax(table[1 : 1 + kinds, kinds:skills], dim=1)[:, 0]
    return torch.softmax(table[0, :kinds], dim=0), skill


class _States:
    """An automaton that is built token by token: lists by state."""

    def __init__(self) -> None:
        self.follow: list[list[int]] = []
        self.bias: list[list[float]] = []
        self.chosen: list[bool] = []

    def add(self, tokens: str, logp: tuple[float, ...] = (), chosen: bool = True) -> int:
        """A state that allows `tokens`, with fixed logits."""
        logits = dict(zip(tokens, logp or (0.0,) * len(tokens), strict=True))
        self.follow.append([-1] * len(TOKENS))
        self.bias.append([logits.get(token, float("-inf")) for token in TOKENS])
        self.chosen.append(chosen)
        return len(self.follow) - 1

    def enter(self, at: tuple[int, str], tokens: str) -> int:
        """A new state after a token of another."""
        state = self.add(tokens)
        self.follow[at[0]][TOKENS.index(at[1])] = state
        return state

    def outcome(self, at: tuple[int, str], success: float) -> None:
        """A state of the environment that ends the response."""
        chances = torch.tensor([success, 1 - success], dtype=torch.float64).log().tolist()
        self.follow[at[0]][TOKENS.index(at[1])] = self.add(RIGHT + WRONG, tuple(chances), chosen=False)


BED = Bed(
    name="strata",
    about="three kinds of response with a skill each; the best kind pays only once its skill is learned",
    setting=Setting(steps=400, prompts=4, group=16, minibatches=1, lr=0.05),
    task=Strata(),
)
