"""GRESO: a prompt that was all right or all wrong on its last visits is mostly skipped before anything is sampled.

Zheng et al., "Act Only When It Pays", arXiv 2506.02177. Differs from GRPO in the prompts sampled, and kept (as DAPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.types import Update
from rekindle.methods import grpo
from rekindle.tokens.collect import Answers, MixedGroups
from rekindle.tokens.rollouts import Example
from rekindle.tokens.stream import saturation, thinned

BED = {"solved": 0.4, "unsolvable": 0.2, "steps": 25}
CARD = Card(
    title="GRESO",
    summary="Skips prompts that were saturated lately, before sampling; adapts how many.",
    authors="Zheng, Zhou, Bartoldson, Kailkhura, Lai, Zhao, Chen",
    year=2025,
    arxiv="2506.02177",
    code="Infini-AI-Lab/GRESO",
    parent="grpo",
    essence=("collect.prompts", "collect.select", "after"),
    status="close",
    deviations=("Each round of dynamic sampling asks for the step's prompts; officially for 64 to 384, as needed.",),
    version=1,
    sources={
        "collect.prompts.floor": "official code",
        "collect.select.max_rounds": "verl recipe of DAPO: max_num_gen_batches 10",
        "after.0.target": "official code: 0.25, a third of it easy prompts, two thirds hard ones",
        "after.0.step": "official code: 0.01",
    },
    effects=(
        Effect(claim="fewer samples", bed="spread", metric="sampled", more=False, against="dapo", bed_options=BED),
        Effect(claim="as much is right", bed="spread", metric="reward", within=0.02, against="dapo", bed_options=BED),
    ),
)
LIMITS, BOUNDS = (0.98, 0.11), (0.05, 0.95)  # success shares that are too easy and too hard; range of the rates


def state(run: Any) -> dict[str, Any]:
    """`run.memory["greso"]`: keep rates, this step's prompts, whether prompts come again by now."""
    return run.memory.setdefault("greso", {"easy": 0.5, "hard": 0.5, "asked": [], "repeats": False})


@dataclass(frozen=True)
class SkipSaturated:
    """Keeps a prompt with probability max(rate^c, floor), c latest visits being all easy or all hard."""

    floor: float = 0.01

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` prompts; GuardStop where the stream does not give them."""
        kept = thinned(run, count, lambda example: self.keep(run, example))
        state(run)["repeats"] |= any(e.id in run.memory["history"] for e in kept)
        state(run)["asked"] += [e.id for e in kept]
        return kept

    def keep(self, run: Any, example: Example) -> float:
        """The probability that a prompt is rolled out."""
        kind, visits = saturation(run.memory["history"].get(example.id, []), *LIMITS)
        return max(state(run)[kind] ** visits, self.floor) if kind else 1.0


@dataclass(frozen=True, kw_only=True)
class AdaptRates:
    """From the second epoch on: a step that met too many easy (or hard) prompts lowers their rate, else it rises."""

    target: float = 0.25
    step: float = 0.01

    def __call__(self, run: Any, update: Update) -> None:
        """Acts after the last update of a step."""
        memory = state(run)
        asked = memory["asked"] if update.last else []
        kinds = [saturation(run.memory["history"].get(p, []), *LIMITS)[0] for p in asked if memory["repeats"]]
        for name, target in (("easy", self.target / 3), ("hard", self.target * 2 / 3)) if kinds else ():
            rate = memory[name] + (-self.step if kinds.count(name) / len(kinds) >= target else self.step)
            memory[name] = min(max(rate, BOUNDS[0]), BOUNDS[1])
        memory["asked"] = memory["asked"][len(asked) :]


def method() -> PolicyGradient:
    """GRESO as a record of parts."""
    return grpo.method().replace(collect=Answers(prompts=SkipSaturated(), select=MixedGroups()), after=(AdaptRates(),))
