"""A method without a gradient: many candidates answer the same prompts, and the weights follow those that score best.

`Evolution.step` reads as the algorithm box: ask, try, tell. What a run must remember of it is its fitnesses alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.ranks import Ranks, shared
from rekindle.core.schedules import resolve
from rekindle.core.types import Metrics, Need
from rekindle.errors import GuardStop

Point = Float64[Tensor, " N"]
MEMORY = "evolution"
"""Where a run's memory keeps {"seed": of the search, "fitness": a list a generation}."""


@runtime_checkable
class Place(Protocol):
    """What is searched: `size` numbers, all 0 at the start; `scale`: how large a change of one of them may well be."""

    @property
    def size(self) -> int:
        """How many numbers."""
        ...

    @property
    def scale(self) -> float:
        """Above 0."""
        ...

    def put(self, point: Point) -> None:
        """Give the model the weights of `point`."""
        ...


@runtime_checkable
class Space(Protocol):
    """Run -> what is searched of its model, the same for all of the run."""

    def __call__(self, run: Any) -> Place:
        """Made at the first call, from the weights of then; later from what the run keeps."""
        ...

    def told(self, run: Any) -> tuple[str, ...]:
        """What whoever starts the run should know."""
        ...


@runtime_checkable
class Searcher(Protocol):
    """A search under way, a pure function of its seed and of what it was told."""

    @property
    def generation(self) -> int:
        """How often it was told."""
        ...

    @property
    def mean(self) -> Point:
        """Where it stands."""
        ...

    @property
    def spread(self) -> float:
        """The step size: how far candidates lie from the mean."""
        ...

    def ask(self) -> list[Point]:
        """The candidates of the next generation."""
        ...

    def tell(self, points: Sequence[Point], fitness: Sequence[float]) -> None:
        """What each of them is worth, the more the better; of equal ones the first counts as better."""
        ...


@runtime_checkable
class Search(Protocol):
    """(size, scale, seed) -> a search that begins at 0."""

    @property
    def population(self) -> int:
        """Candidates a generation."""
        ...

    def __call__(self, size: int, scale: float, seed: int) -> Searcher:
        """A new one."""
        ...


@runtime_checkable
class Trials(Protocol):
    """What a candidate is worth. `prompts` chooses, `label` says what a success is."""

    def examples(self, run: Any) -> Sequence[Any]:
        """The prompts of a generation; what the run's weights of now make of them is observed."""
        ...

    def __call__(self, run: Any, examples: Sequence[Any]) -> float:
        """The fitness of the weights that this rank has now; nan where nothing can be graded."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """A search among the weights by fitness alone: one value a slot, as in `PolicyGradient`. A step is a generation.

    It needs no gradient, no optimiser, no reference and no score of a token.
    """

    collect: Trials
    space: Space
    search: Search

    @torch.no_grad()
    def step(self, run: Any) -> Metrics:
        """Ask, try every candidate on the same prompts, tell; the model ends at the mean.

        Ranks try a share of the candidates each and exchange what these are worth. A step that fails can be taken
        again. GuardStop where nothing can be graded, or where the ranks no longer search alike.
        """
        place = self.space(run)
        search = self.searcher(run, place)
        _move(run, place, search.mean)
        examples = self.collect.examples(run)
        run.live.pop(MEMORY)  # one that was asked and never told would go on to other candidates
        points = search.ask()

        def tried(point: Point) -> float:
            _move(run, place, point)
            return self.collect(run, examples)

        try:
            fitness = worth(shared(points, tried, run.ranks))
            run.drawn += len(points) * len(examples)
            search.tell(points, fitness)
        finally:
            _move(run, place, search.mean)
        refuse_unlike(search.mean, run.ranks)
        run.memory[MEMORY]["fitness"].append(fitness)
        run.live[MEMORY] = search
        return _metrics(fitness, search)

    def searcher(self, run: Any, place: Place) -> Searcher:
        """The run's search: as the last step left it, else made again by telling it all that the run remembers."""
        memory = run.memory.setdefault(MEMORY, {"seed": int(run.key) % 2**32, "fitness": []})
        live = run.live.get(MEMORY)
        if isinstance(live, Searcher) and live.generation == len(memory["fitness"]):
            return live
        search = self.search(place.size, place.scale, memory["seed"])
        for fitness in memory["fitness"]:
            search.tell(search.ask(), fitness)
        run.live[MEMORY] = search
        return search

    @property
    def methods(self) -> tuple[Evolution, ...]:
        """The methods that a run of this record takes steps of: this one."""
        return (self,)

    def at(self, progress: float) -> Evolution:
        """This record at `progress` (0 at the first step of a run, 1 at the last), schedules as plain numbers."""
        return resolve(self, progress)

    def needs(self) -> tuple[Need, ...]:
        """No column: nothing is scored."""
        return ()

    def passes(self) -> set[str]:
        """No other weights."""
        return set()

    def heads(self) -> tuple[str, ...]:
        """No heads."""
        return ()

    def parts(self) -> tuple[object, ...]:
        """The parts, in the order of the slots."""
        return (self.collect, self.space, self.search)

    def replace(self, **slots: Any) -> Evolution:
        """A copy with other parts in `slots`."""
        return replace(self, **slots)


Method = PolicyGradient | Evolution
"""What a run takes steps of."""


def worth(fitness: Sequence[float]) -> list[float]:
    """The fitnesses, with that of the worst for candidates of which nothing could be graded; GuardStop for none."""
    known = [value for value in fitness if not math.isnan(value)]
    if not known:
        raise GuardStop("no response of any candidate could be graded: look at the references, or at the rewards")
    return [min(known) if math.isnan(value) else value for value in fitness]


def refuse_unlike(mean: Point, ranks: Ranks) -> None:
    """GuardStop where the ranks' searches stand at different points."""
    if ranks.count > 1 and len(set(told := ranks.exchange(repr(mean.tolist())))) > 1:
        raise GuardStop(
            f"the ranks drifted apart: their searches stand at {len(set(told))} different points; they run on unlike "
            "machines or versions: --resume goes on from the last checkpoint"
        )


def _move(run: Any, place: Place, point: Point) -> None:
    place.put(point)
    run.stale = True


def _metrics(fitness: Sequence[float], search: Searcher) -> Metrics:
    """The signal is the candidates that some other one beats or is beaten by: none where all are worth the same."""
    count = float(len(fitness))
    return {
        "signal": (count if min(fitness) < max(fitness) else 0.0, count),
        "fitness": (math.fsum(fitness), count),
        "fitness/best": (max(fitness), 1.0),
        "fitness/worst": (min(fitness), 1.0),
        "fitness/values": (float(len(set(fitness))), 1.0),
        "search/spread": (search.spread, 1.0),
        "search/moved": (search.mean.norm().item(), 1.0),
    }
