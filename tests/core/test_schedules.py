"""Schedules at their ends and in the middle, and a record resolved to plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rekindle.core.objectives import Clip
from rekindle.core.schedules import Constant, Cosine, Linear, Scalar, Schedule, Warmup, at, plain, resolve
from rekindle.core.terms import EntropyBonus


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), (0.3, 0.3, 0.3, 0.3)),
        (Linear(1.0, 3.0), (1.0, 1.5, 2.0, 3.0)),
        (Cosine(1.0, 0.0), (1.0, 0.853553, 0.5, 0.0)),
        (Warmup(0.5, 4.0), (0.0, 2.0, 4.0, 4.0)),
        (Warmup(0.5, Linear(4.0, 2.0)), (0.0, 2.0, 4.0, 2.0)),
        (Warmup(0.0, Linear(4.0, 2.0)), (4.0, 3.5, 3.0, 2.0)),
    ],
    ids=str,
)
def test_values(schedule: Schedule, values: tuple[float, ...]) -> None:
    assert [schedule.value(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
@pytest.mark.parametrize("schedule", [Constant(1.0), Linear(0.0, 1.0), Cosine(1.0, 0.0), Warmup(0.1, 1.0)], ids=str)
def test_progress_out_of_range_is_refused(schedule: Schedule, progress: float) -> None:
    with pytest.raises(ValueError, match="progress runs from 0 to 1"):
        schedule.value(progress)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_warm_up_leaves_room(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Warmup(fraction, 1.0)


@dataclass(frozen=True, kw_only=True)
class Inner:
    coef: Scalar
    name: str = "inner"


@dataclass(frozen=True, kw_only=True)
class Outer:
    clip: Clip
    parts: tuple[object, ...]
    bare: tuple[Scalar, ...] = ()
    cls: type = Inner


def test_resolve_walks_dataclasses_and_tuples() -> None:
    record = Outer(
        clip=Clip(high=Linear(1.2, 1.4)),
        parts=(Inner(coef=2), (EntropyBonus(Cosine(0.1, 0.0)), "text")),
        bare=(Linear(0.0, 8.0), 5),
    )
    got = resolve(record, 0.5)
    assert got.clip.high == pytest.approx(1.3) and got.clip.low == 0.8
    assert got.bare == (4.0, 5) and got.parts[1][1] == "text" and got.cls is Inner
    assert got.parts[0] is record.parts[0], "a subtree without a schedule is not copied"
    assert got.parts[1][0].coef == pytest.approx(0.05)
    assert isinstance(record.clip.high, Linear), "the record itself is unchanged"


def test_resolve_keeps_a_plain_record_as_it_is() -> None:
    record = Outer(clip=Clip(), parts=(Inner(coef=2.0),))
    assert resolve(record, 0.3) is record
    assert resolve(3, 0.3) == 3 and resolve(Linear(0.0, 1.0), 0.25) == 0.25


def test_a_resolved_record_is_checked_again() -> None:
    assert resolve(Clip(low=Linear(0.9, 1.1)), 0.0) == Clip(low=0.9)
    with pytest.raises(ValueError, match="lower clip bound"):
        resolve(Clip(low=Linear(0.9, 1.1)), 1.0)


def test_plain_and_at() -> None:
    assert plain(2) == 2.0 and at(2, 0.7) == 2.0 and at(Linear(0.0, 10.0), 0.7) == pytest.approx(7)
    with pytest.raises(TypeError, match="resolve"):
        plain(Constant(1.0))
