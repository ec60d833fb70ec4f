"""Written responses that beat their prompt's baseline: which are drawn, how often, and with what advantage.

A-LoL (Baheti et al., arXiv 2305.14718) estimates once what the start weights are worth on each prompt, and learns from
the responses of the data that are worth more. Each drawn response is an example of its own, its advantage in the place
of its reward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.tokens.reference_value import ReferenceValue
from rekindle.tokens.rollouts import Example
from rekindle.tokens.stream import counted_uniforms
from rekindle.tokens.tasks.gathered import asked
from rekindle.tokens.tasks.lazy import refuse_streamed

KEPT = "leftover."
"""Names of what is kept of the data: of each response its example, its place there, its advantage and its weight."""


@runtime_checkable
class Baseline(Protocol):
    """(run, examples) -> prompt id -> what a response must be worth more than. Asked once, before the first update."""

    def __call__(self, run: Any, examples: Sequence[Example]) -> Mapping[str, float]:
        """The value of every prompt."""
        ...


@dataclass(frozen=True)
class NoBaseline:
    """0: the advantage of a response is its reward."""

    def __call__(self, run: Any, examples: Sequence[Example]) -> Mapping[str, float]:
        """0 for every prompt."""
        return dict.fromkeys((example.id for example in examples), 0.0)


@dataclass(frozen=True)
class GroupMean:
    """The mean reward of all responses that the data has for the prompt: what whoever wrote them is worth."""

    def __call__(self, run: Any, examples: Sequence[Example]) -> Mapping[str, float]:
        """The mean over examples of the same prompt."""
        seen: dict[tuple[str, str], list[float]] = {}
        for example in examples:
            seen.setdefault(asked(example), []).extend(example.meta["rewards"])
        return {example.id: sum(seen[asked(example)]) / len(seen[asked(example)]) for example in examples}


@dataclass(frozen=True, kw_only=True)
class ByAdvantage:
    """Draws responses with replacement; the advantage of each is its reward less its prompt's baseline.

    strategy: "good_priority" draws by the advantage, only those above 0; "good_random" all of these alike; both leave
    out what the column `rejected` of the data holds, which "all_priority" does not; "all" draws every response alike.
    filtered: an advantage below 0 counts as 0, so that nothing is made unlikelier.
    """

    baseline: Baseline = field(default_factory=ReferenceValue)
    strategy: Literal["good_priority", "good_random", "all_priority", "all"] = "good_priority"
    filtered: bool = True

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` examples of one response each; InputError where no response beats its baseline."""
        if f"{KEPT}weight" not in run.kept:
            self._judge(run)
        ladder = run.kept[f"{KEPT}weight"].cumsum(0)
        draws = torch.tensor(counted_uniforms(run, count), dtype=torch.float64) * ladder[-1]
        rows = torch.searchsorted(ladder, draws, right=True)
        which, place, advantage = (
            run.kept[f"{KEPT}{name}"][rows].tolist() for name in ("example", "place", "advantage")
        )
        return [_alone(run.examples[e], p, a) for e, p, a in zip(which, place, advantage, strict=True)]

    def _judge(self, run: Any) -> None:
        """Keeps the advantage and the weight of every response of the data."""
        refuse_streamed(run.examples, "drawing responses by their advantage")
        values = self.baseline(run, run.examples)
        run.memory["values"] = dict(values)
        rows = [(e, p) for e, example in enumerate(run.examples) for p in range(len(example.meta["completions"]))]
        told = [(run.examples[e], p) for e, p in rows]
        over = [example.meta["rewards"][p] - values[example.id] for example, p in told]
        advantage = torch.tensor(over, dtype=torch.float64)
        good = torch.tensor([example.meta["completions"][p] != example.meta.get("rejected") for example, p in told])
        kept = {"example": torch.tensor([e for e, _ in rows]), "place": torch.tensor([p for _, p in rows])}
        kept["advantage"] = advantage.clamp(min=0) if self.filtered else advantage
        kept["weight"] = self.weights(advantage, good)
        if not kept["weight"].sum() > 0:
            raise InputError(
                f"none of the {len(rows)} responses of the data is worth more than its prompt's baseline, so that "
                f"collect.prompts.strategy={self.strategy} has nothing to draw: give better responses or other "
                "rewards, choose another collect.prompts.baseline, or set collect.prompts.strategy=all"
            )
        run.kept |= {f"{KEPT}{name}": value for name, value in kept.items()}

    def weights(self, advantage: Tensor, good: Tensor) -> Tensor:
        """How often each response [N] is drawn, up to a factor. good: those that the data does not call rejected."""
        if self.strategy == "all":
            return torch.ones_like(advantage)
        if self.strategy == "good_random":
            return ((advantage > 0) & good).double()
        return advantage.clamp(min=0).where(good | torch.tensor(self.strategy == "all_priority"), 0.0)


def _alone(example: Example, place: int, advantage: float) -> Example:
    text = example.meta["completions"][place]
    return replace(example, meta={**example.meta, "completions": [text], "rewards": [advantage]})
