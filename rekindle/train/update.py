"""One optimiser update of a run: the exact gradient, what guards it, and the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.ranks import sum_gradients
from rekindle.core.types import Batch, Update, add_metrics
from rekindle.core.watch import watched
from rekindle.train.asked import asked
from rekindle.train.credits import note_credits
from rekindle.train.culprit import refuse_not_finite
from rekindle.train.guards import refuse_holes
from rekindle.train.matching import agree
from rekindle.train.memory import memory_told
from rekindle.train.moved import marked_before, note_moved
from rekindle.train.ranks import agreed
from rekindle.train.together import at_rates, clip, refuse_drift

if TYPE_CHECKING:
    from rekindle.train.run import Run


def updated(run: Run, part: Batch, method: PolicyGradient, index: int) -> Update:
    """Update `index` of a step. GuardStop before the optimiser's step where the loss or the gradient is not finite."""
    agreed(run.ranks, run.sampler.rest)
    descent, micro, ranks = method.descent, method.descent.micro_batch, run.ranks
    refuse_holes(run, part, method, index)
    marks = marked_before(run, index)
    run.optimizer.zero_grad(set_to_none=True)
    with memory_told(run.policy, part, micro, run.resolved.config.checkpointing):
        policy = asked(run.scores, method, run.references)
        loss, now, metrics = backward(policy, part, method, micro, fresh=index == 0, ranks=ranks)
    part = part if "logp_old" in part.extra else part.with_columns(logp_old=now.logp)  # of the first update
    parameters = [p for _, p in run.trainable()]
    sum_gradients(parameters, ranks)
    metrics = add_metrics(metrics, watched(policy, part, method.terms, parameters, micro, ranks))
    limit = descent.grad_clip if descent.grad_clip > 0 else math.inf
    norm = clip(parameters, limit)
    refuse_not_finite(run, part, now, method, index, loss, norm)
    agree(run, part, now.logp, index)
    at_rates(run.optimizer, descent)
    run.optimizer.step()
    refuse_drift(run.trainable(), run.step_index, index, norm, ranks)
    note_moved(run, part, method, index, marks, norm)
    note_credits(run, part, now)
    run.stale = True
    more = {"loss": (loss, 1.0), "grad_norm": (norm, 1.0), "grad_clipped": (float(norm > limit), 1.0)}
    return Update(batch=part, now=now, metrics=add_metrics(metrics, more), index=index)
