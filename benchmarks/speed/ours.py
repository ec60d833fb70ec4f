"""Rekindle's side: a run built as the command line builds it, and one step of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.work import Lengths
from rekindle.core.types import mean_metrics
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.build import make_run
from rekindle.train.run import Run
from rekindle.train.start import Asked, prepare

REWARD = Path(__file__).with_name("models.py")


@dataclass(frozen=True)
class Job:
    """What both sides do in a step: prompts x group responses of at most `limit` tokens, then one AdamW update."""

    prompts: int = 16
    group: int = 16
    limit: int = 64
    lr: float = 1e-6

    @property
    def rows(self) -> int:
        """Responses a step."""
        return self.prompts * self.group


def make(folder: Path, job: Job, method: str = "grpo", **options: Any) -> Run:
    """The run of `folder`'s model on its prompts: one update a step, no KL, all prompts decoded together as in TRL.

    Everything else is at the record's defaults.

    options: more of `--set`, with dots written as double underscores.
    """
    flags: dict[str, Any] = {
        "model": str(folder),
        "data": str(folder / "prompts.jsonl"),
        "reward": (f"{REWARD}:reward",),
        "rollout.prompts": job.prompts,
        "rollout.group": job.group,
        "rollout.max_tokens": job.limit,
        "rollout.block": job.prompts,
        "descent.minibatches": 1,
        "descent.lr": job.lr,
        "steps": 1_000_000,
        "empty_steps": 0,
    }
    flags |= {name.replace("__", "."): value for name, value in options.items()}
    return make_run(*prepare(Asked(method, flags)))


def step(run: Run) -> Lengths:
    """One step as the training loop takes it, without log, evaluation and files."""
    run.observed, run.seconds, run.last_rollouts, run.drawn = {}, {}, [], 0
    run.record = run.method.at(0.0)
    metrics = run.record.step(run)
    _ = mean_metrics(run.observed), mean_metrics(metrics)
    run.step_index += 1
    return lengths_of([rollouts for rollouts, _ in run.last_rollouts])


def lengths_of(parts: list[Rollouts]) -> Lengths:
    """Tokens of prompts and responses."""
    rows = Rollouts.concat(parts)
    return Lengths.of(rows.group.tolist(), [len(ids) for ids in rows.prompt.ids], rows.mask.sum(dim=1).tolist())
