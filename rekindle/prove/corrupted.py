"""The bed `corrupted`: a model that knows one family of questions is tuned on another, some of whose answers are wrong.

The experiment behind one-token rollouts and DFT (arXiv 2509.26313, 2508.05629) as a table. A question is a family and
a number. The logits of a number are shared by the families, what tells them apart is fixed: so what is learned of a
number in one family is felt in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.prove.bed import Bed
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rollouts import Example

DIGITS, LENGTH = 10, 3
KNOWN = 6.0
"""What is added to the logit of the right digit in the family that is known: right in more than nine of ten."""


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """`questions` numbers, asked in the known family A and in B; demonstrations are of B, a share `corrupted` wrong.

    hint: what is added to the logit of B's right digit, which is little known: below 0 it is held impossible.
    """

    questions: int = 40
    corrupted: float = 0.2
    hint: float = 2.0
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "retention", "corrupted", "entropy")

    def world(self, seed: int) -> World:
        """States are (family, number, place), rows (number, place)."""
        n = self.questions
        rng = torch.Generator().manual_seed(seed)
        right, shown = self.answers(rng)
        table = 0.5 * torch.randn(n * LENGTH, DIGITS, generator=rng, dtype=torch.float64)
        told = torch.nn.functional.one_hot(right, DIGITS).double()
        bias = told * torch.tensor([KNOWN, self.hint], dtype=torch.float64).view(2, 1, 1, 1)
        state = torch.arange(2 * n * LENGTH)
        after = torch.where(state % LENGTH + 1 < LENGTH, state + 1, -1)
        names = [f"{family} {i}" for family in "AB" for i in range(n)]
        asked = [
            Example(str(i), names[n + i], _text(right[1, i]), {"demonstration": _text(shown[i])}) for i in range(n)
        ]
        return World(
            tokens=tuple("0123456789"),
            start={name: i * LENGTH for i, name in enumerate(names)},
            follow=after[:, None].expand(-1, DIGITS).contiguous(),
            row=state % (n * LENGTH),
            bias=bias.view(-1, DIGITS),
            chosen=torch.ones(len(state), dtype=torch.bool),
            table=table,
            length=LENGTH,
            task=TableTask(examples=asked, answer=str),
        )

    def answers(self, rng: torch.Generator) -> tuple[Int[Tensor, "2 P T"], Int[Tensor, "P T"]]:
        """(the right digits of both families, what is demonstrated of B): a corrupted one is wrong in every digit."""
        right = torch.randint(0, DIGITS, (2, self.questions, LENGTH), generator=rng)
        off = torch.randint(1, DIGITS, (self.questions, LENGTH), generator=rng)
        wrong = torch.randperm(self.questions, generator=rng) < round(self.corrupted * self.questions)
        return right, torch.where(wrong[:, None], (right[1] + off) % DIGITS, right[1])

    def measure(self, run: TableRun) -> dict[str, float]:
        """Exact. accuracy, retention: the probability of a right answer to B and to A; corrupted: of a wrong label's
        digits, a mean over them; entropy: of B, nats a token."""
        table = torch.log_softmax(run.policy.logits(torch.arange(len(run.world.follow))).detach(), dim=1)
        logp = table.view(2, self.questions, LENGTH, DIGITS)
        right, shown = self.answers(torch.Generator().manual_seed(run.seed))
        said = _of(logp, right).sum(dim=-1).exp().mean(dim=1)
        wrong: Bool[Tensor, " P"] = (shown != right[1]).any(dim=1)
        return {
            "accuracy": said[1].item(),
            "retention": said[0].item(),
            "corrupted": _of(logp[1], shown)[wrong].exp().mean().item() if wrong.any() else 0.0,
            "entropy": -(logp[1].exp() * logp[1]).sum(dim=-1).mean().item(),
        }


def _of(logp: Float[Tensor, "*P T V"], digit: Int[Tensor, "*P T"]) -> Float[Tensor, "*P T"]:
    return logp.gather(-1, digit[..., None])[..., 0]


def _text(digits: Int[Tensor, " T"]) -> str:
    return "".join(map(str, digits.tolist()))


BED = Bed(
    name="corrupted",
    about="tuning on answers of which a fifth are wrong; what was known before can be lost",
    setting=Setting(steps=300, prompts=20, minibatches=1, lr=6.0, adam=False),
    task=Corrupted(),
)
