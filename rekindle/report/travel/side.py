"""Two methods side by side: from the same weights, optimiser and responses, the step of each, measured alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from rekindle.core.ratios import MAX_LOG_RATIO
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD, Batch, Update
from rekindle.errors import InputError
from rekindle.report.travel.offered import Offered
from rekindle.report.travel.other import beside, brought, lacked, other_step
from rekindle.report.travel.past import Past, rebuilt, threads
from rekindle.report.travel.replay import Replayed, again, apart_of, between, refuse_beyond, rounds_of
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.archive import read_rollouts
from rekindle.train.drawn import sampling_of
from rekindle.train.run import Run
from rekindle.train.together import shared_columns


class Watch:
    """An `after` part that adds up what the updates of a step were given: advantages, and how many updates."""

    def __init__(self) -> None:
        self.updates, self.tokens, self.taught, self.size = 0, 0, 0, 0.0

    def __call__(self, run: Any, update: Update) -> None:
        """Live tokens, those with an advantage, and the sum of |A|."""
        advantage = update.batch.advantage[update.batch.live]
        self.updates += 1
        self.tokens += advantage.numel()
        self.taught += int((advantage != 0).sum())
        self.size += advantage.double().abs().sum().item()


@dataclass
class Side:
    """One method's step. entropy, k1, k3: over all stored tokens, after it; k1 and k3 from before it, in nats.

    tokens: that its updates were given, each epoch anew; taught: the share of them with an advantage; advantage: their
    mean |A|; kept: the share that its filters left in. moved: the norm of the change of weights. notes: what it lacked.
    """

    method: str
    loss: float | None
    grad_norm: float | None
    entropy: float
    k1: float
    k3: float
    taught: float
    advantage: float
    kept: float
    updates: int
    tokens: int
    moved: float
    notes: list[str] = field(default_factory=list)


@dataclass
class Compared:
    """Both sides of a step. entropy: before it, over all its `tokens`. cosine: between the two changes of weights.

    replayed: the steps that led there, and that step itself by the run's own method.
    """

    step: int
    entropy: float
    tokens: int
    cosine: float | None
    recorded: Side
    other: Side
    replayed: Replayed


@dataclass(frozen=True)
class Before:
    """Where both begin: stored tokens, scored `micro` rows a pass, what the policy says of them, and the weights."""

    batch: Batch
    micro: int
    said: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]


def side_by_side(past: Past, step: int, method: str, sets: Sequence[str] = ()) -> Compared:
    """Take step `step` by the run's own method and by `method`. InputError where that cannot be compared."""
    refuse_beyond(past, step)
    with threads(past.start.get("threads")):
        theirs, notes = beside(past, method, sets)
        ours = rebuilt(past, step - 1)
        try:
            found = Replayed(ours.step_index, [], between(past, ours.ranks), past.ranks == 1)
            while ours.step_index < step - 1:
                found.steps.append(again(past, ours))
            return _compared(past, ours, theirs, notes, found)
        finally:
            for run in (ours, theirs):
                run.sampler.close()
                run.verifier.close()


def _compared(past: Past, ours: Run, theirs: Run, notes: list[str], found: Replayed) -> Compared:
    step = ours.step_index + 1
    rounds, why = rounds_of(past, ours, step)
    path = past.rollouts(step)
    if rounds is None or path is None:
        raise InputError(f"step {step} has no stored responses to compare methods on ({why}): name another step")
    batch = stored_batch(read_rollouts(path, {e.id: e for e in ours.examples}), ours)
    notes += brought(ours, theirs)
    micro = ours.record.descent.micro_batch
    before = Before(batch, micro, said(ours, batch, micro), weights_of(ours))
    taken, watch = Offered(rounds, theirs.sampler, sampling_of(theirs.resolved), apart_of(theirs)), Watch()
    values = other_step(theirs, taken, watch)
    other, their_move = side(theirs, values, watch, before)
    other.notes = list(dict.fromkeys([*notes, *taken.notes, *lacked(ours, theirs)]))
    mine, watched = Watch(), cast(Any, ours.method)
    ours.method = watched.each(lambda m: m.replace(after=(*m.after, mine)))
    found.steps.append(again(past, ours))
    own, our_move = side(ours, found.steps[-1].values, mine, before)
    live = batch.live
    entropy = mean(before.said["entropy_old"], live)
    return Compared(step, entropy, int(live.sum()), cosine(our_move, their_move), own, other, found)


def stored_batch(seen: Sequence[tuple[Rollouts, Verdicts]], run: Run) -> Batch:
    """All responses of a step as one batch: what both are measured on, trained on or not."""
    verdicts = Verdicts(
        answer=[answer for _, v in seen for answer in v.answer],
        success=torch.cat([v.success for _, v in seen]),
        graded=torch.cat([v.graded for _, v in seen]),
        score=torch.cat([v.score for _, v in seen]),
    )
    return to_batch(Rollouts.concat([rollouts for rollouts, _ in seen]), verdicts, run.key)


def said(run: Run, batch: Batch, micro: int) -> dict[str, Tensor]:
    """`logp_old` and `entropy_old` of the batch by the weights of now, so many rows a pass."""
    return dict(shared_columns(run.scores, batch, (LOGP_OLD, ENTROPY_OLD), run.references, micro, run.ranks))


def weights_of(run: Run) -> dict[str, Tensor]:
    """Copies of what trains, heads apart, for two methods may have different ones."""
    return {n: p.detach().double().cpu().clone() for n, p in run.trainable() if not n.startswith("heads.")}


def side(run: Run, values: Mapping[str, float], watch: Watch, before: Before) -> tuple[Side, dict[str, Tensor]]:
    """What the step of `run` did, and its change of weights."""
    now, live = said(run, before.batch, before.micro), before.batch.live
    ratio = (now["logp_old"] - before.said["logp_old"]).double()
    clamped = ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    move = {name: value - before.weights[name] for name, value in weights_of(run).items()}
    found = Side(
        method=run.resolved.config.method,
        loss=values.get("loss"),
        grad_norm=values.get("grad_norm"),
        entropy=mean(now["entropy_old"], live),
        k1=mean(-ratio, live),
        k3=mean(clamped.exp() - 1 - clamped, live),
        taught=watch.taught / max(1, watch.tokens),
        advantage=watch.size / max(1, watch.tokens),
        kept=values.get("kept", 1.0),
        updates=watch.updates,
        tokens=watch.tokens,
        moved=sum(float((value**2).sum()) for value in move.values()) ** 0.5,
    )
    return found, move


def mean(values: Tensor, live: Tensor) -> float:
    """Over live tokens."""
    return values[live].double().mean().item()


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float | None:
    """Between two changes of the same weights; None where one of them is no change."""
    dot = sum(float((a[name] * b[name]).sum()) for name in a)
    norms = [sum(float((value**2).sum()) for value in move.values()) ** 0.5 for move in (a, b)]
    return dot / (norms[0] * norms[1]) if all(norms) else None
