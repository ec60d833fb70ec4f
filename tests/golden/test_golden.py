"""Five updates of every method on stored rollouts equal the committed numbers, which `tests.golden.make` renews."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import add_metrics
from rekindle.errors import InputError
from rekindle.train.options import flatten, override
from tests.golden.make import HERE, UPDATES, play, stored_policy
from tests.methods.records import labels, record_of
from tests.methods.stage import trainable

NAMES = labels()
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
    assert sum(p.stat().st_size for p in HERE.glob("*.*") if p.suffix != ".py") < 500_000


@every
def test_five_updates(name: str) -> None:
    got, stage = play(record_of(name))
    assert len(stage.updates) == UPDATES == len(expected()[f"{name}.losses"])
    assert off(name, got) <= RELATIVE


@every
def test_the_updates_are_alive(name: str) -> None:
    _, stage = play(record_of(name))
    metrics = functools.reduce(add_metrics, [u.metrics for u in stage.updates])
    taught = sum(bool((u.batch.advantage != 0).any()) for u in stage.updates)
    assert metrics.get("update_kl_k3", (1.0, 1.0))[0] > 0 or taught < 2, "ratios have moved"
    start = torch.cat([p.flatten() for p in trainable(stored_policy("policy", stage.method.heads()))])
    assert (expected()[f"{name}.weights"] - start).abs().max() > 0.1
    own = expected()[f"{name}.weights"]
    others = [expected()[f"{n}.weights"] for n in NAMES if n != name and stateful(n) == stateful(name)]
    assert all((own - weights).abs().max() > 1e-6 for weights in others if weights.shape == own.shape)


def stateful(name: str) -> str:
    """What a method remembers from step to step; in its first step it may do what its parent does."""
    record = record_of(name)
    return str({p: v for p, v in flatten(record).items() if p.startswith(("collect.prompts", "after", "source"))})


@every
def test_a_small_change_is_noticed(name: str) -> None:
    method = record_of(name)
    slots = ("prepare.", "advantage.", "modulate.", "objective.", "keep.", "aggregate.", "terms.")
    flat = {p: v for p, v in flatten(method).items() if p.startswith(slots) and isinstance(v, float)}
    changed = {path: nudged(method, path, value) for path, value in flat.items() if value < 1e3}
    seen = {path for path, other in changed.items() if off(name, play(other)[0]) > RELATIVE}
    print(f"\n{name}: {len(seen)} of {len(changed)} numbers are noticed")
    assert seen or not {p for p in changed if "eps" not in p}
    assert "terms.0.coef" in seen or "terms.0.coef" not in changed


def nudged(method: PolicyGradient, path: str, value: float) -> PolicyGradient:
    """The record with a slightly larger number at `path`, or a smaller one where that is out of range."""
    try:
        return override(method, path, value * 1.01 + 1e-3)
    except InputError:
        return override(method, path, value * 0.99)
