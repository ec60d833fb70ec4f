"""The task `digit_sum`: write three digits whose sum is the prompt's number modulo 10; a hundred answers are right.

The vote is on the sum modulo 10, so that a method is free to keep or lose any of the hundred. Trains in seconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any

from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation

_DIGITS = re.compile(r"[0-9]{3}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_RIGHT_SHARE = 0.5
"""Share of the noisiest warm examples that are right on purpose; a tenth of the others is right by luck."""
_GROWTH = 6000
"""Warm examples before the range of the first two digits grows by one."""

PROFILE: Mapping[str, Any] = MappingProxyType(
    {
        "rollout.prompts": 8,
        "rollout.group": 16,
        "rollout.votes": 64,
        "rollout.max_tokens": 6,
        "descent.lr": 5e-4,
        "descent.minibatches": 2,
        "steps": 60,
    }
)
_RANGES = MappingProxyType({"train": (100, 140), "heldout": (140, 200), "warm": (200, 1000), "ood": (1000, 1100)})


@dataclass(frozen=True)
class DigitSum:
    """Prompts such as `472=`; right are `002`, `381`, `903`, ... . `ood` holds numbers of four digits."""

    name: str = "digit_sum"
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=lambda: dict(PROFILE))
    system_prompt: str | None = None
    splits: tuple[str, ...] = ("train", "heldout", "ood")
    ways: tuple[str, ...] = ()
    clean: int = 90_000
    step_delimiters: tuple[str, ...] = ("\n",)

    def split(self, name: str) -> Sequence[Example]:
        """The examples of "train" (40), "heldout" (60) or "ood" (100); ValueError for another name.

        A paraphrase is another number of the same split with the same last digit.
        """
        names = ("train", "heldout", "ood")
        if name not in names:
            raise ValueError(f"task 'digit_sum' has no split '{name}': there are {', '.join(names)}")
        low, high = _RANGES[name]
        other = {n: low + (n - low + 10) % (high - low) for n in range(low, high)}
        meta = {n: {"paraphrase": f"{m}=", "demonstration": demonstration(n)} for n, m in other.items()}
        return [Example(f"{name}-{n}", f"{n}=", str(n % 10), more) for n, more in meta.items()]

    def warm_examples(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless (prompt, response) pairs from numbers of no other split: `clean` right ones, then ever fewer.

        The first two digits begin as 0 0 and their range grows step by step: without that, sums modulo 10 are learnt
        late. The noise comes last, so that the model knows the right answers and yet gives others, and comes slowly,
        for a sudden one wipes out what was learnt. After twice `clean` examples, 0.55 are right; the model that
        learns from them is right about four times in ten.
        """
        rng = Random(f"digit_sum/{self.version}/warm/{seed}")
        for count in itertools.count():
            n = rng.randrange(*_RANGES["warm"])
            top = min(10, 1 + count // _GROWTH)
            first, second = rng.randrange(top), rng.randrange(top)
            third = (n - first - second) % 10
            noise = (1 - _RIGHT_SHARE) * min(1.0, max(0.0, count / self.clean - 1))
            if rng.random() < noise:
                third = rng.randrange(10)
            yield f"{n}=", f"{first}{second}{third}"

    def extract(self, text: str) -> str | None:
        """The sum modulo 10 of exactly three digits."""
        digits = text.strip()
        return str(sum(map(int, digits)) % 10) if _DIGITS.fullmatch(digits) else None

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether the two are the same integer modulo 10; None where the reference is not a number."""
        if reference is None or not _NUMBER.fullmatch(reference.strip()):
            return None
        if answer is None or not _NUMBER.fullmatch(answer.strip()):
            return False
        return int(answer) % 10 == int(reference) % 10

    def well_formed(self, text: str) -> bool:
        """Whether there are exactly three digits."""
        return self.extract(text) is not None

    def steps(self, text: str) -> str:
        """The response itself: its digits are what differs."""
        return text.strip()

    def derivation(self, example: Example, text: str) -> Derivation:
        """The digits; valid if their sum is right."""
        want = example.prompt.strip().removesuffix("=")
        answer = self.extract(text)
        return Derivation(self.grade(answer, want) is True, text.strip(), None)


def demonstration(n: int) -> str:
    """Three digits whose sum is right for the prompt of `n`, always the same ones."""
    rng = Random(f"digit_sum/demonstration/{n}")
    first, second = rng.randrange(10), rng.randrange(10)
    return f"{first}{second}{(n - first - second) % 10}"


def task() -> DigitSum:
    """The task with its standard splits."""
    return DigitSum()
