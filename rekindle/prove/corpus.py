"""The bed `corpus`: sums of two digits, learned from a written corpus of which half is wrong.

The experiment behind offline methods such as A-LoL (Baheti et al., arXiv 2305.14718): from weights that imitate the
corpus, which learns to be right? A response is some fillers and a digit; its reward is 1 where the digit is the sum
modulo 10, and up to `brevity` more the fewer its fillers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rekindle.core.random import pack_key, uniforms
from rekindle.prove.bed import Bed
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import TableTask, World, free_world
from rekindle.tokens.rollouts import Example

DIGITS, FILLER, LONGEST, SAMPLES = 10, 10, 3, 20
"""Digits; the filler's token; fillers at the most; samples of each example when a run is measured."""
SMOOTH = 0.1
"""What is added to every count of the corpus before the start weights imitate it."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """`questions` sums; `responses` written ones of each, the share `wrong` of them with another digit.

    Every response is an example of its own, which also brings it as demonstration.
    """

    questions: int = 20
    responses: int = 8
    wrong: float = 0.5
    brevity: float = 0.2
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "distinct", "length", "entropy")

    def world(self, seed: int) -> World:
        """States are (question, fillers so far); the start weights are the corpus's smoothed frequencies."""
        written = [self._written(seed, q) for q in range(self.questions)]
        shape = (self.questions, LONGEST + 1, DIGITS + 1)
        counts = torch.full(shape, SMOOTH, dtype=torch.float64)
        for q, texts in enumerate(written):
            for text in texts:
                counts[q, torch.arange(len(text)), [FILLER if c == "." else int(c) for c in text]] += 1
        state = torch.arange(shape[0] * shape[1]).view(*shape[:2], 1).expand(shape)
        follow = torch.where(torch.arange(DIGITS + 1) == FILLER, state + 1, -1)
        bias = torch.zeros(shape, dtype=torch.float64)
        bias[:, -1, FILLER], follow[:, -1, FILLER] = -torch.inf, -1
        examples = [e for q, texts in enumerate(written) for e in self._examples(q, texts)]
        return free_world(
            follow.flatten(0, 1),
            counts.log().flatten(0, 1),
            tokens="0123456789.",
            start=[q * shape[1] for q in range(self.questions) for _ in range(self.responses)],
            length=LONGEST + 1,
            task=TableTask(examples=examples, answer=lambda text: text[-1:] or None),
            bias=bias.flatten(0, 1),
        )

    def measure(self, run: TableRun) -> dict[str, float]:
        """Of fresh samples: share that is right, distinct right texts a question, tokens, entropy (nats a token)."""
        groups, uids = run.memory["groups"], run.memory["uids"]
        rollouts = run.draw(run.examples, SAMPLES, pack_key(run.seed, -1, 0))
        run.memory |= {"groups": groups, "uids": uids}
        assert rollouts.entropy is not None  # a table knows its entropy
        rows = zip(rollouts.example, rollouts.text, strict=True)
        right = [(e.prompt, text) for e, text in rows if text[-1:] == e.answer]
        return {
            "accuracy": len(right) / len(rollouts),
            "distinct": len(set(right)) / self.questions,
            "length": rollouts.mask.sum().item() / len(rollouts),
            "entropy": (rollouts.entropy.sum() / rollouts.mask.sum()).item(),
        }

    def _written(self, seed: int, question: int) -> list[str]:
        """The corpus's responses to a question, the wrong ones first."""
        draws: Tensor = uniforms(pack_key(seed, question, 0), torch.arange(self.responses), 2)
        texts = []
        for i, (fill, off) in enumerate(draws.tolist()):
            shift = 1 + int(off * (DIGITS - 1)) if i < round(self.wrong * self.responses) else 0
            texts.append("." * int(fill * (LONGEST + 1)) + str((self._sum(question) + shift) % DIGITS))
        return texts

    def _examples(self, question: int, texts: list[str]) -> list[Example]:
        rewards = [self.reward(question, text) for text in texts]
        found = []
        for i, (text, reward) in enumerate(zip(texts, rewards, strict=True)):
            meta = {"demonstration": text, "completions": [text], "rewards": [reward]}
            found.append(Example(f"{question}/{i}", f"sum {question}", str(self._sum(question)), meta))
        return found

    def reward(self, question: int, text: str) -> float:
        """1 for the right digit, and the share of `brevity` that its fillers leave."""
        right = text[-1:] == str(self._sum(question))
        return float(right) + self.brevity * (1 - (len(text) - 1) / LONGEST)

    def _sum(self, question: int) -> int:
        return (7 * question + 3) % DIGITS


BED = Bed(
    name="corpus",
    about="sums from a written corpus of which half is wrong",
    setting=Setting(steps=150, prompts=16, group=1, minibatches=1),
    task=Corpus(),
)
