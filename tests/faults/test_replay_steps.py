"""Twenty random steps of each of seven methods are taken again: tensors, metrics and verdicts, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import train
from rekindle.report.travel.past import open_past
from rekindle.report.travel.replay import Replayed, replay

Fault = Callable[..., None]
SMALL: dict[str, Any] = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.max_tokens": 6,
    "descent.minibatches": 2,
    "evaluate.baseline": False,
    "checkpoint.every": 5,
    "checkpoint.keep": 99,
}
METHODS: dict[str, dict[str, Any]] = {
    "evol_rl": {"rollout.votes": 8},
    "grpo": {"descent.epochs": 3, "lora.rank": 4, "descent.lr": 1e-3},
    "dapo": {"collect.select.max_rounds": 60},
    "reinforce_ada": {},
    "remix": {},
    "spo": {},
    "ppo_clip": {"descent.epochs": 2},
}
SHOWS = (
    "a majority vote, an adapter and three epochs, rounds of dynamic sampling, adaptive sampling, a replay buffer, a "
)
SHOWS += "tracker in memory, a value head"


def taken_again(method: str, folder: Path, steps: int, picked: list[int]) -> list[Replayed]:
    options = {**SMALL, **METHODS[method]}
    run = open_past(train(method, task="digit_sum", steps=steps, out=folder / method, options=options))
    return [replay(run, step) for step in picked]


def counted(found: list[Replayed]) -> tuple[int, int, int]:
    """(steps taken again, tensors, metrics) that were compared; nothing of them differs, and nothing was drawn anew."""
    steps = [step for one in found for step in one.steps]
    assert all(one.first is None and one.exact and not one.notes for one in found)
    assert all(step.source == "stored" and step.responses and step.tensors >= 13 for step in steps)
    return len(steps), sum(step.tensors for step in steps), sum(step.metrics for step in steps)


def test_two_random_steps_of_four_methods(fault: Fault, tmp_path: Path) -> None:
    draw = random.Random(0)
    totals = [counted(taken_again(m, tmp_path, 6, draw.sample(range(1, 7), 2))) for m in list(METHODS)[:4]]
    steps, tensors, metrics = map(sum, zip(*totals, strict=True))
    fault(
        "time travel",
        "two random steps of each of four methods are taken again from the newest checkpoint and the stored responses",
        "every tensor, metric and verdict is equal, bit for bit",
        f"{steps} steps, {tensors} tensors, {metrics} metrics",
    )


@pytest.mark.heavy
def test_twenty_random_steps_of_each_method(fault: Fault, tmp_path: Path) -> None:
    draw = random.Random(1)
    totals = [counted(taken_again(m, tmp_path, 40, draw.sample(range(1, 41), 20))) for m in METHODS]
    steps, tensors, metrics = map(sum, zip(*totals, strict=True))
    print(f"\n{steps} steps taken again, {tensors} tensors and {metrics} metrics compared")
    fault(
        "time travel",
        f"twenty random steps of {len(METHODS)} methods ({SHOWS}) are taken again from the newest checkpoint and the "
        "stored responses",
        "every tensor, metric and verdict is equal, bit for bit",
        f"{steps} steps, {tensors} tensors, {metrics} metrics",
    )
