"""What is compared over several steps of a run, for methods that carry a state from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from benchmarks.judge import sides, trl_side
from benchmarks.judge.cases import Case
from benchmarks.judge.row import Row
from benchmarks.judge.sides import Said
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.types import Now, Update

ENTROPIES = (0.5, 0.6, 1.5, 1.4, 0.5, 0.4, 0.3)  # times the case's own, of mean 1: the target lies between


@dataclass
class Memory:
    """The part of a run that the state lives in."""

    memory: dict[str, Any] = field(default_factory=dict)


def rows() -> dict[str, Row]:
    """Every row of a method with a state."""
    target, delta = 1.0, 0.1
    options = {"after.0.target": target, "after.0.delta": delta}
    method = sides.record("entropy_adaptive", options, objective=Clip())
    flags = {"use_adaptive_entropy": True, "entropy_target": target, "entropy_coef_delta": delta, "loss_type": "dapo"}
    row = Row(
        method="entropy_adaptive",
        flags=sides.flags(method, "objective", "aggregate", "terms", "after") + f"; {len(ENTROPIES)} steps",
        rival="TRL",
        setting=", ".join(f"{name}={value}" for name, value in flags.items()) + f"; {len(ENTROPIES)} steps",
        kinds=("ragged",),
        ours=partial(ours, method),
        theirs=partial(theirs, flags),
    )
    return {"trl-entropy-adaptive": row}


def ours(method: PolicyGradient, case: Case) -> Said:
    """Our losses of all steps, one update each."""
    run = Memory()

    def step(at: Case) -> Said:
        for source in method.source:
            at = replace(at, batch=source(at.batch, run))
        said = sides.loss(method, at)
        for after in method.after:
            after(
                run, Update(batch=at.batch, now=Now(logp=at.logp, entropy=at.entropy), metrics={}, index=0, last=True)
            )
        return said

    return _steps(step, case)


def theirs(flags: dict[str, Any], case: Case) -> Said:
    """TRL's losses of all steps, from its state at the start of a run."""
    made = trl_side.trainer(1, tuple(flags.items())).made
    made.entropy_coef, made._last_world_entropy, made._entropy_window_stats = 0.0, float("inf"), None
    return _steps(lambda at: trl_side.loss(at, **flags), case)


def _steps(step: Callable[[Case], Said], case: Case) -> Said:
    said = [step(replace(case, entropy=scale * case.entropy)) for scale in ENTROPIES]
    losses = [s.loss for s in said if s.loss is not None]
    gradients = [s.gradient for s in said if s.gradient is not None]
    weights = torch.arange(1.0, len(losses) + 1, dtype=torch.float64)  # a sum would let steps cancel
    return Said(loss=(weights * torch.tensor(losses)).sum().item(), gradient=torch.stack(gradients))
