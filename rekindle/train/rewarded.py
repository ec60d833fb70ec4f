"""What the user's reward functions show over a run: one that gives a single value for ever, one of an absurd scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.loud import Level, Listener

if TYPE_CHECKING:
    from rekindle.train.run import Run

ONE_VALUE = "one_value"
"""In `run.watched`: function -> {value, steps, responses} since the start; None once it has given two values."""


def attend(run: Run, heard: Listener) -> None:
    """Have a reward function told of that does not come back. A note alone: how long it takes belongs to no record."""
    if run.verifier.rewards is not None:
        patience = run.verifier.rewards.patience
        patience.seconds = run.resolved.config.guards.slow
        patience.tell = lambda text: heard({"kind": "note", "step": run.step_index, "text": text})


def reward_levels(run: Run, seen: Sequence[tuple[Rollouts, Verdicts]]) -> Iterator[Level]:
    """The levels of every reward function of the run, from what it gave in this step."""
    if run.verifier.rewards is None:
        return
    for reward in run.verifier.rewards.rewards:
        column, given = f"reward/{reward.name}", list[tuple[str, float]]()
        for rollouts, verdicts in seen:
            told = zip(rollouts.example, verdicts.extra.get(column, [None] * len(rollouts)), strict=True)
            given += [(example.id, float(value)) for example, value in told if value is not None]
        yield from silent(run, reward.name, len(given))
        if given:
            yield from constant(run, reward.name, [value for _, value in given])
            yield scaled(run, reward.name, given)


def silent(run: Run, name: str, given: int) -> Iterator[Level]:
    """A function that gave None to every row."""
    if len(run.verifier.rewards.rewards if run.verifier.rewards else ()) > 1:
        return  # one that applies to some rows only is no fault beside others
    numbers = {"given": given}
    remedy = "return a number for the rows that it is for: None leaves a row out of loss and statistics"
    yield Level(f"reward '{name}' gave None to every response", float(given == 0), 0, numbers, remedy)


def constant(run: Run, name: str, given: Sequence[float]) -> Iterator[Level]:
    """A function that has only ever given one value; one that gave two is never looked at again."""
    every, limit = dict(run.watched.get(ONE_VALUE, {})), run.resolved.config.guards.constant
    known = every.get(name, {"value": given[0], "steps": 0, "responses": 0})
    if known is None:
        return
    same = min(given) == max(given) == known["value"]
    steps, rows = known["steps"] + 1, known["responses"] + len(given)
    every[name] = {"value": known["value"], "steps": steps, "responses": rows} if same else None
    run.watched[ONE_VALUE] = every
    if limit and same:
        numbers = {"value": known["value"], "responses": rows, "steps": steps}
        remedy = "look at what it returns: equal rewards teach nothing, and the run stops after empty_steps such steps"
        yield Level(f"reward '{name}' has given every response the same", steps, limit - 1, numbers, remedy)


def scaled(run: Run, name: str, given: Sequence[tuple[str, float]]) -> Level:
    """The largest |reward| of the step, and the prompt that it was given for."""
    prompt, value = max(given, key=lambda one: abs(one[1]))
    limit = run.resolved.config.guards.scale
    numbers = {"largest": value, "prompt": prompt, "limit": limit}
    remedy = "scale it to about 1: advantages that are not divided by a deviation, and KL terms, are in its unit"
    return Level(f"reward '{name}' is of an absurd scale", abs(value), limit, numbers, remedy)
