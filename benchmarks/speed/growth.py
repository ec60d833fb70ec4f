"""(e) Growth: the seconds of a step over group size, response length and number of prompts, as fitted exponents."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_prompts, write_folder
from benchmarks.speed.paired import spread
from benchmarks.speed.step import JOBS, PROMPT_TOKENS
from rekindle.train.run import Run

FACTORS = (0.5, 1, 2, 4)


def measure(name: str, repeats: int, work: Path, what: str) -> dict[str, Any]:
    """what: "group", "prompts" or "limit" (the mean length grows with the limit), from half to four times the usual."""
    base = JOBS.get(name, ours.Job())
    points = [round(getattr(base, what) * factor) for factor in FACTORS]
    runs = [make(name, replace(base, **{what: point}), work / str(point)) for point in points]
    for run in runs:
        ours.step(run)
    slopes: list[float] = []
    seconds: list[list[float]] = []
    for _ in range(repeats):
        seconds.append([timed(run) for run in runs])
        slopes.append(slope(points, seconds[-1]))
    by_point = {str(point): spread(column) for point, column in zip(points, zip(*seconds, strict=True), strict=True)}
    return {"size": name, "exponent": spread(slopes), "seconds": by_point}


def make(name: str, job: ours.Job, folder: Path) -> Run:
    """A run whose responses have a mean of half the limit."""
    size = SIZES[name]
    prompts = make_prompts(size.vocab, 2 * job.prompts, *PROMPT_TOKENS)
    return ours.make(write_folder(folder, size, prompts, mean=job.limit / 2), job)


def timed(run: Run) -> float:
    """Seconds of a step."""
    began = time.perf_counter()
    ours.step(run)
    return time.perf_counter() - began


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent k of y = c x^k by least squares on logarithms."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean = sum(a) / len(a)
    return sum((u - mean) * v for u, v in zip(a, b, strict=True)) / sum((u - mean) ** 2 for u in a)
