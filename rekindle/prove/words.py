"""The bed `words`: texts of a few words, rewarded by a classifier that is trained on the spot, or for what they name.

Two tasks of GRUE (Ramamurthy et al., arXiv 2210.01241) as they fit a table: a continuation that is to be favourable,
and a text that is to hold given concepts. Most of the vocabulary is of no use for either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.prove.bed import Bed
from rekindle.prove.run import TableRun
from rekindle.prove.setting import Setting
from rekindle.prove.world import TableTask, World
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Example
from rekindle.train.ruled import DrawsByRule

GOOD, BAD, PLAIN = 12, 12, 16
"""Favourable, unfavourable and other words; the others are the concepts."""
WORDS = GOOD + BAD + PLAIN
DISTRACTOR, SPREAD, SAMPLES = -1.0, 0.5, 100
TEXTS, WRONG = 600, 0.1
"""Labelled texts that the classifier learns from, and the share whose label is wrong."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Texts of `length` tokens from 40 words and `distractors` others; a row of logits for a prompt and a last token.

    reward: "opinion" is a classifier's probability that the text is favourable; "concepts" the share of the prompt's
    `named` concepts that the text holds.
    """

    reward: Literal["opinion", "concepts"] = "opinion"
    prompts: int = 6
    named: int = 3
    distractors: int = 40
    length: int = 8
    metrics: ClassVar[tuple[str, ...]] = ("distractors", "entropy")

    def world(self, seed: int) -> World:
        """Rows: a prompt's start, and each of its last tokens. States: a row at a position."""
        size, places = WORDS + self.distractors, self.length
        rows = self.prompts * (size + 1)
        after = torch.arange(self.prompts)[:, None] * (size + 1) + 1 + torch.arange(size)
        after = after.repeat_interleave(size + 1, dim=0)
        place = torch.arange(places)[:, None, None]
        follow = torch.where(place + 1 < places, (place + 1) * rows + after, -1).reshape(places * rows, size)
        examples = [Example(str(p), self.prompt(p, seed)) for p in range(self.prompts)]
        return World(
            tokens=tuple(f"w{i} " if i < WORDS else f"x{i} " for i in range(size)),
            start={example.prompt: p * (size + 1) for p, example in enumerate(examples)},
            follow=follow,
            row=torch.arange(rows).repeat(places),
            bias=torch.zeros(rows * places, size, dtype=torch.float64),
            chosen=torch.ones(rows * places, dtype=torch.bool),
            table=_start(rows, size, seed),
            length=places,
            task=TableTask(examples=examples, answer=str),
            rewards=self.rewards(seed),
        )

    def prompt(self, place: int, seed: int) -> str:
        """What a prompt asks for: its concepts by name."""
        generator = torch.Generator().manual_seed(1000 * seed + place)
        chosen = GOOD + BAD + torch.randperm(PLAIN, generator=generator)[: self.named]
        return f"{place}: " + " ".join(f"w{i}" for i in sorted(chosen.tolist()))

    def rewards(self, seed: int) -> Rewards:
        """What scores the texts of a seed's world."""
        if self.reward == "concepts":
            return Rewards((Reward("concepts", covered),))
        classifier = trained(self.length, seed)

        def favourable(completions: list[str]) -> list[float]:
            return torch.sigmoid(counted(completions) @ classifier[:-1] + classifier[-1]).tolist()

        return Rewards((Reward("opinion", favourable),))

    def measure(self, run: TableRun) -> dict[str, float]:
        """Of fresh samples, drawn as the method draws: reward, share of distractors, entropy (nats a token)."""
        collect: Any = run.record.collect
        rule = collect.draw.rule(run) if isinstance(collect.draw, DrawsByRule) else None
        kept = {name: run.memory[name] for name in ("groups", "uids")}
        drawn = run.draw(run.examples, SAMPLES, pack_key(run.seed, -1, 0), rule=rule)
        run.memory |= kept
        assert drawn.entropy is not None  # a table knows its entropy
        return {
            "reward": run.verifier.verify(drawn).score.mean().item(),
            "distractors": (drawn.ids >= WORDS).double().mean().item(),
            "entropy": drawn.entropy.mean().item(),
        }


def covered(prompts: list[str], completions: list[str]) -> list[float]:
    """The share of each prompt's concepts that its text holds."""
    pairs = zip((prompt.split()[1:] for prompt in prompts), completions, strict=True)
    return [len(set(names) & set(text.split())) / len(names) for names, text in pairs]


def counted(texts: list[str]) -> Float[Tensor, "N W"]:
    """How often each text has each of the words; distractors are unknown to the classifier."""
    counts = torch.zeros(len(texts), WORDS, dtype=torch.float64)
    for row, text in enumerate(texts):
        for word in text.split():
            if word.startswith("w"):
                counts[row, int(word[1:])] += 1
    return counts


def trained(length: int, seed: int) -> Float[Tensor, " W1"]:
    """Logistic regression on random texts, labelled by which kind of word they have more of, some of them wrongly."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (TEXTS, length), generator=generator)
    counts = torch.nn.functional.one_hot(ids, WORDS).sum(dim=1).double()
    lean = (ids < GOOD).sum(dim=1) - ((ids >= GOOD) & (ids < GOOD + BAD)).sum(dim=1)
    label = (lean > 0) ^ (torch.rand(TEXTS, generator=generator) < WRONG)
    known = torch.cat([counts, torch.ones(TEXTS, 1, dtype=torch.float64)], dim=1)
    weights = torch.zeros(WORDS + 1, dtype=torch.float64)
    for _ in range(200):  # plain descent, with a little decay: the fit need not be perfect
        weights -= 0.5 * (known.T @ (torch.sigmoid(known @ weights) - label.double()) / TEXTS + 1e-3 * weights)
    return weights


def _start(rows: int, size: int, seed: int) -> Float[Tensor, "R V"]:
    noise = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return DISTRACTOR * (torch.arange(size) >= WORDS).double() + SPREAD * noise


BED = Bed(
    name="words",
    about="texts of eight words, rewarded by a classifier trained on the spot (or for the concepts that they hold)",
    setting=Setting(steps=100, prompts=6, group=16, lr=0.02),
    task=Words(),
)
