"""Made-up rollouts for methods: a toy task that grades what was said, and prompts of every kind by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from rekindle.core.random import uniforms
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.rules import Step, StepRule, more_uniforms
from rekindle.tokens.verify import Verifier
from tests.tiny_models import EOS, VOCABULARY

VOTES, WIDTH = 6, 9
DELIMITER = 16  # the letter "n" of the tiny tokenizer


@dataclass(frozen=True)
class Said:
    """Responses read "words=answer"; "!" makes one invalid (it still votes); the reference "?" is broken."""

    name: str = "said"
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    splits: tuple[str, ...] = ("train",)
    ways: tuple[str, ...] = ()
    step_delimiters: tuple[str, ...] = ("n",)

    def split(self, name: str) -> Sequence[Example]:
        return [Example(name, "x")]

    def extract(self, text: str) -> str | None:
        return text.partition("=")[2] or None

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        if reference is None or reference == "?":
            return None
        return bool(answer) and Fraction(answer or "0") == Fraction(reference)

    def well_formed(self, text: str) -> bool:
        return "=" in text and "!" not in text

    def steps(self, text: str) -> str:
        return text.partition("=")[0]

    def derivation(self, example: Example, text: str) -> None:
        return None


VERIFIER = Verifier(Said())


def letter_counts(texts: Sequence[str]) -> Tensor:
    """Unit rows [n 26] of letter counts."""
    counts = torch.tensor([[float(text.count(chr(97 + i))) for i in range(26)] for text in texts])
    return nn.functional.normalize(counts, dim=1, eps=1e-8)


def spoken(
    texts: Sequence[str],
    group: Sequence[int] | None = None,
    truth: str | None = None,
    lengths: Sequence[int] | None = None,
) -> Rollouts:
    """Rollouts that say `texts`, `lengths` tokens each (1 unless said), all finished."""
    mask = torch.arange(max(lengths or [1])) < torch.tensor(lengths or [1] * len(texts))[:, None]
    groups = list(group) if group is not None else [0] * len(texts)
    return Rollouts(
        example=[Example(str(g), "x", truth) for g in groups],
        prompt=PromptRows(tuple((1,) for _ in texts)),
        ids=mask.long() * 3,
        mask=mask,
        logp=-mask.double(),
        logp_sampled=-mask.double(),
        entropy=mask.double() / 2,
        text=list(texts),
        finish=["eos"] * len(texts),
        group=torch.tensor(groups),
        uid=torch.arange(len(texts)),
    )


def group_rollouts(g: int, votes: int = VOTES) -> Rollouts:
    """Prompt `g`: 2 is all right, 3 says nothing, 4 has a broken reference, in 1 the majority is wrong; else mixed."""
    rng = Random(g)
    truth = {1: "7", 4: "?"}.get(g, "5")
    answers = {2: ["5"], 3: [""]}.get(g, ["5", "7", "5", "3", "5.0", "7"])
    ids, mask, texts, finish = [], [], [], []
    for j in range(votes):
        size = rng.randrange(3, WIDTH + 1)
        row = [rng.choice([3, 4, 5, 6, 7, DELIMITER]) for _ in range(size - 1)]
        cut = size == WIDTH and g == 0
        words = "".join(chr(94 + i) for i in row) + ("!" if j == 4 else "")
        answer = answers[j % len(answers)]
        texts.append(f"{words}={answer}" if answer else words)
        finish.append("length" if cut else "eos")
        ids.append(row + [7 if cut else EOS] + [0] * (WIDTH - size))
        mask.append([t < size and not (t == 1 and j in (0, 3)) for t in range(WIDTH)])
    logs = torch.tensor([[-rng.random() - 0.1 for _ in range(WIDTH)] for _ in range(votes)], dtype=torch.float64)
    on = torch.tensor(mask)
    return Rollouts(
        example=[Example(str(g), "x", truth)] * votes,
        prompt=PromptRows(tuple((1, 3 + g % 5, 8)[: 2 + g % 2] for _ in range(votes))),
        ids=torch.tensor(ids),
        mask=on,
        logp=logs.where(on, 0.0),
        logp_sampled=logs.where(on, 0.0),
        entropy=(-logs / 2).where(on, 0.0),
        text=texts,
        finish=finish,
        group=torch.full((votes,), g),
        uid=torch.arange(g * votes, (g + 1) * votes),
    )


def playing(rollouts: Rollouts) -> Callable[[int], Rollouts]:
    """A source that plays the groups of `rollouts`, the first group of all as prompt 0, and so on around."""
    groups = rollouts.group.unique()
    return lambda g: rollouts.take((rollouts.group == groups[g % len(groups)]).nonzero()[:, 0])


def under_rule(rollouts: Rollouts, rule: StepRule) -> Rollouts:
    """The same rows with the columns that a rule would keep, had it drawn them from made-up logits."""
    size, key, never = rollouts.ids.shape[1], torch.tensor(7), torch.zeros(VOCABULARY, dtype=torch.bool)
    steps = []
    for t in range(size):
        where = (rollouts.uid, VOCABULARY)
        logits = {p: 6 * uniforms(key + i, *where, t * VOCABULARY) for i, p in enumerate(("policy", *rule.passes))}
        numbers = (uniforms(key, rollouts.uid, 1, t)[:, 0], more_uniforms(key, rollouts.uid, t))
        steps.append(rule(Step(logits, rollouts.ids[:, :t], *numbers, Sampling(), (), never)).extra)
    columns = {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}
    return replace(rollouts, extra=columns)
