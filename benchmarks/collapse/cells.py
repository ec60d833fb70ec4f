"""The runs of the study, and what is called a collapse. Both were written down before any warning was looked at.

The tuning cells and the scored cells share no seed and no setting, and hardly a method. The cells were chosen by the
labels of a few runs of seed 0, which are in neither part, so that both classes occur; nothing was chosen by warnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

PASS = "pass@16"
FELL, SPENT = 0.9, 0.1
"""Collapsed: the final PASS below FELL of its best, and the final entropy below SPENT of the start's."""
EDGE = 3
"""Steps whose mean is the start's entropy, and the final one."""


@dataclass(frozen=True)
class Cell:
    """A setting that is run with each seed of its part."""

    method: str
    lr: float
    task: str = "digit_sum"
    prompts: int = 4
    group: int = 16
    steps: int = 80

    @property
    def name(self) -> str:
        """`ttrl digit_sum lr 0.002 4x16`."""
        return f"{self.method} {self.task} lr {self.lr:g} {self.prompts}x{self.group}"

    def options(self) -> dict[str, Any]:
        """What the run is told, beside method, task, steps and seed."""
        small = self.task == "digit_sum"
        return {
            "descent.lr": self.lr,
            "rollout.prompts": self.prompts,
            "rollout.group": self.group,
            "rollout.votes": self.group,
            **({} if small else {"rollout.max_tokens": 64}),
            "evaluate.every": 5 if small else 10,
            "evaluate.prompts": 30 if small else 16,
            "evaluate.samples": 32 if small else 16,
            "empty_steps": 0,
            "watch.every": 0,
            **{f"checkpoint.{name}": 0 for name in ("every", "rollouts", "digests")},
        }


SEEDS: Mapping[str, Sequence[int]] = {"tuning": (1, 2), "scored": (11, 12)}
CELLS: Mapping[str, Sequence[Cell]] = {
    "tuning": (
        Cell("ttrl", 3e-4),
        Cell("ttrl", 2e-3),
        Cell("ttrl", 3e-3),
        Cell("srt", 1e-3),
        Cell("srt", 3e-3),
        Cell("rent", 5e-4),
        Cell("rent", 2e-3),
        Cell("grpo", 1e-3),
        Cell("grpo", 2e-3),
        Cell("grpo", 4e-3),
        Cell("evol_rl", 2e-3),
        Cell("entropy_bonus", 2e-3),
        Cell("ttrl", 1e-4, "reduce", 4, 8, 40),
    ),
    "scored": (
        Cell("intuitor", 1e-3),
        Cell("intuitor", 2.5e-3),
        Cell("intuitor", 4e-3),
        Cell("empo", 1e-3),
        Cell("empo", 4e-3),
        Cell("ttrl_entropy", 1.5e-3),
        Cell("ttrl_entropy", 5e-3),
        Cell("ttrl", 2.5e-3, "digit_sum", 8, 8),
        Cell("srt", 4e-3, "digit_sum", 2, 32),
        Cell("rent", 1.5e-3, "digit_sum", 8, 8),
        Cell("co_rewarding", 2e-3),
        Cell("random_reward", 3e-3),
        Cell("evol_rl", 1e-3, "digit_sum", 8, 8),
        Cell("dapo", 1.5e-3),
        Cell("dapo", 4e-3),
        Cell("dr_grpo", 2.5e-3),
        Cell("clip_cov", 3e-3),
        Cell("kl_cov", 7e-4),
        Cell("grpo", 3e-3, "digit_sum", 8, 8),
        Cell("gpg", 1.5e-3),
        Cell("rloo", 2.5e-3),
        Cell("grpo", 5e-5, "reduce", 4, 8, 40),
        Cell("rent", 2e-4, "reduce", 4, 8, 40),
        Cell("empo", 1e-4, "reduce", 4, 8, 40),
    ),
}


@dataclass(frozen=True)
class Label:
    """What became of a run. at: the first evaluation at which what makes a collapse held (None: at none)."""

    collapsed: bool
    at: int | None
    passed: float
    entropy: float


def labelled(run: Mapping[str, Any]) -> Label:
    """The label of a stored run: shares of the best PASS and of the start's entropy that are left at its end."""
    steps, entropy = run["train"]["step"], run["train"]["entropy"]
    start = fmean(entropy[:EDGE])
    best, at, passed, left = 0.0, None, 1.0, 1.0
    for step, value in zip(run["eval"]["step"], run["eval"][PASS], strict=True):
        best = max(best, value)
        done = sum(one <= step for one in steps)
        passed = value / best if best else 1.0
        left = fmean(entropy[max(0, done - EDGE) : done]) / start
        if at is None and passed < FELL and left < SPENT:
            at = step
    return Label(passed < FELL and left < SPENT, at, passed, left)
