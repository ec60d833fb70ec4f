"""What is compared with others than TRL and verl: reductions to methods of our own, and the library of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cmaes
import numpy as np
import torch

from benchmarks.judge import sides
from benchmarks.judge.cases import Case
from benchmarks.judge.row import Row
from benchmarks.judge.sides import Said
from rekindle.core.evolution import MEMORY, Evolution
from rekindle.core.ranks import Alone
from rekindle.tokens.cma import CMA

OWN = "Rekindle's own"
GENERATIONS, POPULATION, SIZE, SIGMA = 40, 12, 5, 0.7


def rows() -> dict[str, Row]:
    """MA-RLHF with macro actions of one token beside PPO, and CMA-ES beside the package alone."""
    neutral = {
        "advantage.whiten": True,
        "prepare.0.limit": 1e9,
        "prepare.1.coef": 0.0,
        "prepare.2.n": 1,
        "terms.0.clip": 0.5,
    }
    macro, ppo = sides.record("ma_rlhf", neutral), sides.record("ppo_clip", {"objective.dual": None})
    slots = ("prepare", "advantage", "objective", "terms")
    found = {
        "own-ma-rlhf": Row(
            method="ma_rlhf (whole)",
            flags=sides.flags(macro, *slots),
            rival=OWN,
            setting="ppo_clip: " + sides.flags(ppo, *slots),
            kinds=("ragged", "shaped scores", "constant groups"),
            ours=partial(sides.whole, macro),
            theirs=partial(sides.whole, ppo),
        )
    }
    for covariance, kind in (("full", cmaes.CMA), ("separable", cmaes.SepCMA)):
        found[f"cmaes-{covariance}"] = Row(
            method=f"essa's search, {covariance}",
            flags=f"CMA(population={POPULATION}, sigma={SIGMA}, covariance={covariance}); {GENERATIONS} generations",
            rival="cmaes",
            setting=f"{kind.__name__}, the same seed, of a quadratic in {SIZE} dimensions",
            kinds=("ragged",),
            ours=partial(ours, covariance),
            theirs=partial(theirs, kind),
        )
    return found


@dataclass(eq=False)
class Place:
    """Numbers that are searched themselves."""

    size: int = SIZE
    scale: float = 1.0
    at: torch.Tensor = field(default_factory=lambda: torch.zeros(SIZE, dtype=torch.float64))

    def put(self, point: torch.Tensor) -> None:
        """They become `point`."""
        self.at = point.clone()


@dataclass(frozen=True)
class Here:
    """The run's own place."""

    def __call__(self, run: Any) -> Place:
        """The same all through."""
        return run.place

    def told(self, run: Any) -> tuple[str, ...]:
        """Nothing."""
        return ()


@dataclass(frozen=True)
class Bowl:
    """Minus a quadratic around the case's first log-probs."""

    goal: tuple[float, ...]

    def examples(self, run: Any) -> list[int]:
        """One prompt."""
        return [0]

    def __call__(self, run: Any, examples: list[int]) -> float:
        """The fitness of where the place is."""
        return -bowl(run.place.at.numpy(), self.goal)


@dataclass(eq=False)
class Run:
    """What a search asks of a run."""

    key: torch.Tensor
    place: Place = field(default_factory=Place)
    memory: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    ranks: Alone = field(default_factory=Alone)
    drawn: int = 0
    stale: bool = False


def bowl(x: np.ndarray, goal: tuple[float, ...]) -> float:
    """A quadratic of condition 10 around `goal`."""
    return float((((x - np.array(goal)) * np.linspace(1.0, 10.0, SIZE)) ** 2).sum())


def goal_of(case: Case) -> tuple[float, ...]:
    """Where the quadratic is 0."""
    return tuple(case.logp[0, :SIZE].tolist())


def ours(covariance: Any, case: Case) -> Said:
    """The mean after some generations (as `advantage`) and the sum of all fitnesses (as `loss`)."""
    run = Run(torch.tensor(case.seed + 1))
    search = CMA(population=POPULATION, sigma=SIGMA, covariance=covariance)
    method = Evolution(collect=Bowl(goal_of(case)), space=Here(), search=search)
    for _ in range(GENERATIONS):
        method.step(run)
    return Said(run.place.at, sum(map(sum, run.memory[MEMORY]["fitness"])))


def theirs(kind: Any, case: Case) -> Said:
    """The package's own loop: ask, evaluate, tell."""
    goal, total = goal_of(case), 0.0
    search = kind(mean=np.zeros(SIZE), sigma=SIGMA, seed=(case.seed + 1) % 2**32, population_size=POPULATION)
    for _ in range(GENERATIONS):
        points = [search.ask() for _ in range(POPULATION)]
        values = [bowl(x, goal) for x in points]
        search.tell(list(zip(points, values, strict=True)))
        total -= sum(values)
    return Said(torch.from_numpy(search.mean.copy()), total)
