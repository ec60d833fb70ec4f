"""Replay: steps of a recorded run taken again with the responses that were stored, and checked bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rekindle.core.evolution import Evolution
from rekindle.core.ranks import Together
from rekindle.errors import GuardStop, InputError
from rekindle.report.travel.checkpoints import differ_in_state, far, state_of_folder, state_of_run
from rekindle.report.travel.compared import (
    Difference,
    differ_in_rows,
    differ_in_values,
    furthest,
    rows_of_file,
    rows_of_run,
)
from rekindle.report.travel.past import Past, changed, foreign, rebuilt, threads
from rekindle.report.travel.stored import Diverged, Stored
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.archive import facts_of, read_rollouts, read_table
from rekindle.train.digests import differing, digests
from rekindle.train.drawn import sampling_of
from rekindle.train.ruled import lockstep
from rekindle.train.run import Run
from rekindle.train.step import one_step

WITHIN = 1e-4
"""Largest relative difference of weights that is rounding where other ranks took the steps (docs/parallel.md)."""


@dataclass
class Again:
    """One step, taken again. source: "stored", or why it was sampled again. tensors: compared by their digests.

    far: the largest relative difference of a metric. apart: that of weights in the checkpoint of this step, whose
    optimiser, memory and kept tensors were compared, too; None without one. values: the metrics of now.
    """

    step: int
    source: str
    responses: int = 0
    metrics: int = 0
    tensors: int = 0
    far: float = 0.0
    apart: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    differ: list[Difference] = field(default_factory=list)


@dataclass
class Replayed:
    """What a replay found. began: the step that it started behind. notes: what may explain a difference.

    exact: as many ranks took the steps as took them then, so that every bit is to be the same.
    """

    began: int
    steps: list[Again]
    notes: list[str]
    exact: bool = True

    @property
    def first(self) -> Difference | None:
        """The first thing that differs; None where all is equal."""
        return next((difference for step in self.steps for difference in step.differ), None)


def replay(past: Past, step: int, ranks: Together | None = None, device: str | None = None) -> Replayed:
    """Take the steps from the newest checkpoint before `step` up to it; stops behind the first that differs.

    All ranks call it, and find the same. device: of this one, where it is not the run's.
    """
    refuse_beyond(past, step)
    with threads(past.start.get("threads")):
        run = rebuilt(past, step - 1, ranks, device)
        try:
            notes = [*changed(past, run.resolved), *between(past, run.ranks)]
            found = Replayed(run.step_index, [], notes, past.ranks == run.ranks.count)
            while run.step_index < step and found.first is None:
                found.steps.append(again(past, run))
        finally:
            run.sampler.close()
            run.verifier.close()
    return found


def refuse_beyond(past: Past, step: int) -> None:
    """InputError where the run has not taken that step."""
    if not past.steps:
        raise InputError(f"{past.folder.events} records no step: give the folder of a run that has taken some")
    if not 1 <= step <= past.steps:
        raise InputError(f"{past.folder.root} has steps 1 to {past.steps}, and not {step}: name one of these (--step)")


def between(past: Past, ranks: Together) -> list[str]:
    """What a replay by another number of ranks cannot promise."""
    if past.ranks == ranks.count:
        return []
    return [
        f"{past.ranks} ranks took these steps and {ranks.count} takes them again: sums are rounded in another order"
    ]


def again(past: Past, run: Run) -> Again:
    """The next step of `run`, by the responses that it had where these are stored, and what differs."""
    inner, step = run.sampler, run.step_index + 1
    rounds, source = rounds_of(past, run, step)
    stored = None if rounds is None else taken_from(run, rounds)
    told = Again(step, source)
    if stored is not None:
        run.sampler = stored
    try:
        values = one_step(run, lambda: run.record.step(run)).values
    except Diverged as other:
        told.differ.append(Difference(step, "prompts", str(other)))
        return told
    except GuardStop as stop:
        told.differ.append(Difference(step, "guard", str(stop)))
        return told
    finally:
        run.sampler = inner
    if stored is not None and stored.again:
        told.source = f"stored; {', '.join(dict.fromkeys(stored.again))} sampled again"
    told.values = values
    check(past, run, told, values)
    return told


def rounds_of(past: Past, run: Run, step: int) -> tuple[list[Rollouts] | None, str]:
    """The rounds of a step as they were stored, or None and why the step samples again.

    InputError where it would have to and cannot.
    """
    path, record = past.rollouts(step), run.method.at(run.step_index / max(1, run.resolved.config.steps - 1))
    facts = None if path is None else facts_of(read_table(path))
    if isinstance(record, Evolution):
        why = "its candidates' responses are not kept"
    elif lockstep(record):
        why = "it draws under a rule, whose columns are not kept"
    elif path is None:
        why = "no rollouts of it are kept"
    elif facts is None:
        why = "its rollouts are kept without tokens"
    else:
        return [r for r, _ in read_rollouts(path, {e.id: e for e in run.examples})], "stored"
    if foreign(run.resolved):
        engine = run.resolved.config.rollout.sampler
        raise InputError(
            f"step {step} cannot be replayed: {why}, and the engine that drew them ({engine}) is not started for it: "
            "keep the rollouts of every step, with tokens (checkpoint.rollouts=1, checkpoint.tokens=true)"
        )
    return None, f"sampled again: {why}"


def taken_from(run: Run, rounds: list[Rollouts]) -> Stored:
    """The stored responses as the run's sampler; without an engine where the run sampled by one."""
    apart = apart_of(run)
    return Stored(rounds, run.sampler if apart is None else None, sampling_of(run.resolved), apart)


def apart_of(run: Run) -> float | None:
    """`Sampler.apart` of stored responses: what lies between an engine's numbers and the model's is logged again."""
    return math.inf if foreign(run.resolved) else None


def check(past: Past, run: Run, told: Again, values: dict[str, float]) -> None:
    """Compare the step that was taken with the recorded one, in the order in which one thing causes another."""
    step, path = told.step, past.rollouts(told.step)
    mine = rows_of_run(run)
    told.responses = len(mine.get("id", []))
    if path is not None:
        told.differ += differ_in_rows(step, rows_of_file(path), mine)
    rounding = past.ranks != run.ranks.count
    check_metrics(past, run, told, values, rounding)
    weights: Any = past.events.get(("weights", step))
    if weights is not None and not rounding:
        told.tensors = len(weights)
        for name in differing(weights, digests(run.trainable(), run.ranks)):
            told.differ.append(Difference(step, "weights", name))
    if not run.ranks.sharded:
        check_checkpoint(past, run, told, rounding)


def check_metrics(past: Past, run: Run, told: Again, values: dict[str, float], rounding: bool) -> None:
    """Every value of the step's event; where only rounding is promised, how far they lie apart."""
    event = past.events.get(("step", told.step), {})
    mine = {name: value if math.isfinite(value) else None for name, value in values.items()}  # as events hold them
    names = differ_in_values(event, mine, run.resolved.config.rollout.sampler != "local")
    told.metrics, told.far = len(event.keys() & mine.keys()), furthest(event, mine, names)
    for name in names:
        if rounding and name in event and name in mine:
            continue
        told.differ.append(Difference(told.step, "metrics", f"{name}: {event.get(name)} and {mine.get(name)}"))


def check_checkpoint(past: Past, run: Run, told: Again, rounding: bool) -> None:
    """Weights, optimiser, memory and kept tensors, where a checkpoint of this step is there still."""
    place = past.checkpoint(told.step)
    if place is None:
        return
    found = differ_in_state(state_of_folder(place), state_of_run(run), tied=True)
    told.apart = far(found)
    if rounding and told.apart <= WITHIN:
        return
    told.differ += [Difference(told.step, "checkpoint", str(one)) for one in found]
