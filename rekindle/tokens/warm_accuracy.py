"""How right a freshly warmed model is: plain sampling at temperature 1, by length and by way of working."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rekindle.core.random import pack_key
from rekindle.tokens.rollouts import Example
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.tasks.base import Task


@dataclass
class _Tally:
    """Counts of a group of responses."""

    total: int = 0
    right: int = 0
    ways: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, way: str | None, right: bool) -> None:
        """Count one response of `way`."""
        self.total += 1
        self.right += right
        self.ways[way or "none"][0] += 1
        self.ways[way or "none"][1] += right

    def report(self) -> dict[str, Any]:
        """pass@1, and for each way its share of the responses and its own pass@1."""
        return {
            "responses": self.total,
            "pass@1": round(self.right / self.total, 4),
            "ways": {
                w: {"share": round(n / self.total, 4), "pass@1": round(ok / n, 4)}
                for w, (n, ok) in sorted(self.ways.items())
            },
        }


def measure(
    task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: int, n: int, seed: int
) -> dict[str, Any]:
    """Accuracies on `prompts` held-out and as many out-of-distribution prompts x `n` samples, a group a length."""
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    settings = Sampling(max_tokens=task.profile["rollout.max_tokens"])
    for place, split in enumerate(("heldout", "ood")):
        examples = _spread(task.split(split), prompts)
        rollouts = LocalSampler(model, tokenizer).sample(examples, n, settings, pack_key(seed, place, 0), first_group=0)
        for example, text in zip(rollouts.example, rollouts.text, strict=True):
            found = task.derivation(example, text)
            right = task.grade(task.extract(text), example.answer) is True
            tallies[f"{split}/{example.meta.get('operands', 'all')}"].add(found.way if found else None, right)
    return {label: tally.report() for label, tally in sorted(tallies.items())}


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    stride = max(1, len(examples) // count)
    return list(examples[::stride][:count])
