"""A generation: what is tried, what is remembered, what stops it; and that the path is the library's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cmaes
import numpy as np
import pytest
import torch
from torch import Tensor

from rekindle.core.evolution import MEMORY, Evolution, Searcher, Space, Trials, refuse_unlike, worth
from rekindle.errors import GuardStop
from rekindle.tokens.cma import CMA, CMASearch
from rekindle.tokens.factors import SingularValues
from tests.methods.searching import Free, Numbers, Pointing, ToyRun
from tests.ranks.team import Member, together

GOAL = np.array([3.0, -2.0, 0.5])


def bowl(x: np.ndarray) -> float:
    return float((((x - GOAL) * np.array([1.0, 10.0, 3.0])) ** 2).sum())


@dataclass(frozen=True)
class Bowl:
    """Fitness is minus a quadratic, 0 at its goal."""

    def examples(self, run: Any) -> list[int]:
        return [0, 1]

    def __call__(self, run: Any, examples: list[int]) -> float:
        return -bowl(run.live["place"].at.numpy())


def searched(covariance: Any, steps: int, run: ToyRun | None = None) -> ToyRun:
    run = run or ToyRun()
    method = Evolution(collect=Bowl(), space=Numbers(3), search=CMA(population=12, sigma=0.7, covariance=covariance))
    run.steps(method, steps)
    return run


@pytest.mark.parametrize(("covariance", "kind"), [("full", cmaes.CMA), ("separable", cmaes.SepCMA)])
def test_a_quadratic_is_searched_as_the_library_searches_it(covariance: str, kind: Any) -> None:
    ours = searched(covariance, 40)
    theirs = kind(mean=np.zeros(3), sigma=0.7, seed=ours.memory[MEMORY]["seed"], population_size=12)
    for fitness in ours.fitness:
        points = [theirs.ask() for _ in range(12)]
        assert [-bowl(x) for x in points] == fitness
        theirs.tell([(x, bowl(x)) for x in points])
    place: Free = ours.live["place"]
    assert isinstance(place.at, Tensor) and np.array_equal(place.at.numpy(), theirs.mean)
    assert np.abs(theirs.mean - GOAL).max() < 0.05


def test_a_search_is_made_again_where_the_memory_has_gone_on() -> None:
    run = searched("full", 3)
    first = run.live[MEMORY]
    assert isinstance(first, CMASearch) and isinstance(first, Searcher) and first.generation == 3
    searched("full", 1, run)
    assert run.live[MEMORY] is first, "one that stands where the memory stands goes on"
    run.fitness.pop()
    method = Evolution(collect=Bowl(), space=Numbers(3), search=CMA(population=12, sigma=0.7, covariance="full"))
    back = method.searcher(run, Free(3))
    assert back is not first and back.generation == 3 and torch.equal(back.mean, method.searcher(run, Free(3)).mean)


def test_what_a_step_says() -> None:
    run = ToyRun()
    method = Evolution(collect=Pointing(), space=SingularValues(share=1.0), search=CMA(population=6, sigma=0.5))
    assert isinstance(method.collect, Trials) and isinstance(method.space, Space)
    told = run.steps(method, 1)[0]
    fitness = run.fitness[0]
    assert told["fitness"] == (pytest.approx(sum(fitness)), 6.0) and told["signal"] == (6.0, 6.0)
    assert told["fitness/best"] == (max(fitness), 1.0) and told["fitness/worst"] == (min(fitness), 1.0)
    assert told["fitness/values"] == (6.0, 1.0) and told["search/moved"][0] > 0 < told["search/spread"][0]
    assert run.drawn == 6 * 8 and run.stale


def test_what_cannot_be_graded_counts_as_the_worst() -> None:
    nan = float("nan")
    assert worth([0.5, nan, 0.2, nan]) == [0.5, 0.2, 0.2, 0.2]
    with pytest.raises(GuardStop, match="no response of any candidate could be graded"):
        worth([nan, nan])


def test_a_failure_leaves_the_mean_and_the_memory_as_they_were() -> None:
    run = ToyRun()
    method = Evolution(collect=Pointing(), space=SingularValues(share=1.0), search=CMA(population=6, sigma=0.5))
    run.steps(method, 2)
    before, remembered = run.weights.clone(), [list(row) for row in run.fitness]

    def fails(value: float) -> float:
        if len(run.seen) > 18:
            raise GuardStop("enough")
        return value

    with pytest.raises(GuardStop, match="enough"):
        method.replace(collect=Pointing(fails)).step(run)
    assert run.fitness == remembered
    torch.testing.assert_close(run.weights, before)
    run.steps(method, 1)
    whole = ToyRun()
    whole.steps(method, 3)
    assert run.fitness == whole.fitness, "taken again, the step has the same candidates"


def test_ranks_that_search_apart_are_stopped() -> None:
    def work(rank: Member) -> None:
        refuse_unlike(torch.ones(2, dtype=torch.float64), rank)
        with pytest.raises(GuardStop, match="stand at 2 different points"):
            refuse_unlike(torch.tensor([1.0, rank.index], dtype=torch.float64), rank)

    together(2, work)
    refuse_unlike(torch.tensor([float("nan")], dtype=torch.float64), replace(ToyRun().ranks))
