"""Five updates of every method on stored rollouts equal the committed numbers, which `tests.golden.make` renews."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rekindle import methods
from rekindle.core.types import add_metrics
from tests.golden.make import HERE, UPDATES, play, stored_policy

NAMES = methods.names()
every = pytest.mark.parametrize("name", NAMES)
RELATIVE = 1e-9


@functools.cache
def expected() -> dict[str, Tensor]:
    return load_file(HERE / "expected.safetensors")


def off(name: str, got: dict[str, Tensor]) -> float:
    """Largest relative difference from the committed numbers of method `name`."""
    pairs = [(value, expected()[f"{name}.{key}"]) for key, value in got.items()]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def test_the_file_holds_every_method() -> None:
    assert {key.partition(".")[0] for key in expected()} == set(NAMES)
    assert sum(p.stat().st_size for p in HERE.glob("*.*") if p.suffix != ".py") < 200_000


@every
def test_five_updates(name: str) -> None:
    got, stage = play(methods.load(name).method())
    assert len(stage.updates) == UPDATES == len(expected()[f"{name}.losses"])
    assert off(name, got) <= RELATIVE


@every
def test_the_updates_are_alive(name: str) -> None:
    _, stage = play(methods.load(name).method())
    metrics = functools.reduce(add_metrics, [u.metrics for u in stage.updates])
    assert metrics["clip_high"][0] > 0 and metrics["clip_low"][0] > 0, "ratios leave the bounds on both sides"
    start = torch.cat([p.flatten() for p in stored_policy("policy").parameters()])
    assert (expected()[f"{name}.weights"] - start).abs().max() > 0.1
    others = [expected()[f"{other}.weights"] for other in NAMES if other != name]
    assert all((expected()[f"{name}.weights"] - weights).abs().max() > 1e-6 for weights in others)


@every
def test_a_small_change_is_noticed(name: str) -> None:
    method = methods.load(name).method()
    objective = method.objective
    changed = [method.replace(objective=replace(objective, high=objective.high + 1e-3))]  # type: ignore[attr-defined, type-var]
    if method.terms:
        term = method.terms[-1]
        changed.append(method.replace(terms=(*method.terms[:-1], replace(term, coef=term.coef * 1.001))))  # type: ignore[attr-defined, type-var]
    assert all(off(name, play(other)[0]) > RELATIVE for other in changed)
