"""What every method that searches owes: a path that is its seed's and the ranking's alone. No method is named here."""

from __future__ import annotations

import pickle

import pytest
import torch

from rekindle import methods
from rekindle.core.evolution import Evolution
from rekindle.train.options import flatten, override
from tests.methods.records import SEARCHING
from tests.methods.searching import ToyRun, again, toy
from tests.ranks.team import Member, together

every = pytest.mark.parametrize("name", SEARCHING)


def small(name: str) -> Evolution:
    record = methods.load(name).method()
    assert isinstance(record, Evolution)
    return override(toy(record), "search.population", 8)


@every
def test_the_same_seed_is_the_same_path_and_another_is_not(name: str) -> None:
    runs = [ToyRun(seed=seed) for seed in (4, 4, 5)]
    told = [run.steps(small(name), 3) for run in runs]
    assert told[0] == told[1] and runs[0].fitness == runs[1].fitness != runs[2].fitness
    assert torch.equal(runs[0].weights, runs[1].weights)
    assert all(torch.equal(a, b) for a, b in zip(runs[0].seen, runs[1].seen, strict=True))


@every
def test_only_the_order_of_the_fitnesses_counts(name: str) -> None:
    plain, bent = ToyRun(), ToyRun()
    plain.steps(small(name), 4)
    bent.steps(toy(small(name), lambda value: 1000 + value**3 / 7), 4)
    assert torch.equal(plain.weights, bent.weights) and plain.fitness != bent.fitness
    upside = ToyRun()
    upside.steps(toy(small(name), lambda value: -value), 4)
    assert not torch.equal(plain.weights, upside.weights)


@every
def test_ties_go_to_the_candidate_that_came_first(name: str) -> None:
    flat, falling = ToyRun(), ToyRun()
    flat.steps(toy(small(name), lambda value: 0.5), 2)
    values = iter(range(100, 0, -1))
    falling.steps(toy(small(name), lambda value: float(next(values))), 2)
    assert torch.equal(flat.weights, falling.weights)
    assert flat.steps(toy(small(name), lambda value: 0.5), 1)[0]["signal"] == (0.0, 8.0)


@every
def test_ranks_walk_the_path_of_one(name: str) -> None:
    alone = ToyRun()
    alone.steps(small(name), 3)

    def work(rank: Member) -> ToyRun:
        run = ToyRun(ranks=rank)
        run.steps(small(name), 3)
        return run

    for count in (2, 3):
        crew = together(count, work)
        assert all(run.fitness == alone.fitness and torch.equal(run.weights, alone.weights) for run in crew)
        assert sum(len(run.seen) for run in crew) == 3 * (8 + count), "each candidate is tried once"


@every
def test_it_goes_on_from_what_is_saved(name: str) -> None:
    whole, cut = ToyRun(), ToyRun()
    whole.steps(small(name), 5)
    cut.steps(small(name), 2)
    later = again(cut)
    later.steps(small(name), 3)
    assert later.fitness == whole.fitness and torch.equal(later.weights, whole.weights)


@every
def test_it_climbs(name: str) -> None:
    run = ToyRun()
    told = run.steps(small(name), 25)
    assert told[-1]["fitness"][0] > told[0]["fitness"][0] + 8 * 0.5


@every
def test_no_graph_is_built(name: str) -> None:
    run = ToyRun()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pytest.fail("a graph"), lambda packed: packed):
        run.steps(small(name), 2)
    assert all(t.grad is None and t.requires_grad and t.grad_fn is None for pair in run.pairs for t in pair)


@every
def test_a_preset_is_a_value_that_asks_for_no_scores(name: str) -> None:
    method = methods.load(name).method()
    assert flatten(pickle.loads(pickle.dumps(method))) == flatten(method) == flatten(methods.load(name).method())
    assert (method.needs(), method.heads(), method.methods, method.at(0.5)) == ((), (), (method,), method)
    assert len(method.parts()) == 3
