"""A model of cost: seconds of a step as a sum of few terms, each with a meaning and a coefficient that is not negative.

sample = passes * layers * a + tokens / ranks * (operations * b + c)
update = tokens / ranks * (3 * operations * d + e) + (ranks > 1) * (parameters * f + g)
rest   = responses * h + i
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.scaling.points import PROMPT, SIZES_HERE
from benchmarks.speed.models import Size
from benchmarks.speed.work import parameters

TERMS: Mapping[str, Mapping[str, str]] = {
    "sample": {
        "pass": "seconds a decoding pass and layer",
        "operation": "seconds an operation",
        "token": "seconds a token and rank: drawing, bookkeeping",
    },
    "update": {
        "operation": "seconds an operation",
        "token": "seconds a token and rank",
        "exchanged": "seconds a parameter whose gradient is summed over ranks",
        "meeting": "seconds a meeting of the ranks",
    },
    "rest": {"response": "seconds a response: texts, rewards, records", "step": "seconds a step"},
}
"""Part of a step -> its terms, with what their coefficients are."""


def terms(point: Mapping[str, Any], size: Size | None = None) -> dict[str, dict[str, float]]:
    """How much of each term a point has. size: of a model that is none of those measured."""
    size = size or SIZES_HERE[point["model"]]
    ranks, rows, length = point["ranks"], point["prompts"] * point["group"], point["length"]
    weights = sum(parameters(size))
    sampled, trained = rows * length / ranks, (rows * length + point["prompts"] * PROMPT) / ranks
    forward = token_operations(size, PROMPT + length / 2)
    several = float(ranks > 1)
    return {
        "sample": {"pass": float(length * size.layers), "operation": sampled * forward, "token": sampled},
        "update": {
            "operation": 3 * trained * forward,
            "token": trained,
            "exchanged": several * weights,
            "meeting": several,
        },
        "rest": {"response": float(rows), "step": 1.0},
    }


def token_operations(size: Size, context: float) -> float:
    """Floating-point operations of a forward pass a token, at a context of so many tokens."""
    return 2.0 * sum(parameters(size)) + 4.0 * size.layers * size.heads * size.head_dim * context


def seconds(point: Mapping[str, Any]) -> dict[str, float]:
    """What was measured, by part."""
    return {
        "sample": point["sample"],
        "update": point["update"],
        "rest": max(point["seconds"] - point["sample"] - point["update"], 0.0),
    }


def fitted(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The coefficients of each part: least squares of relative errors of a step, none of them negative."""
    found = {}
    for part, names in TERMS.items():
        rows = np.array([[terms(point)[part][name] / point["seconds"] for name in names] for point in points])
        want = np.array([seconds(point)[part] / point["seconds"] for point in points])
        found[part] = dict(zip(names, non_negative(rows, want), strict=True))
    return found


def non_negative(rows: np.ndarray, want: np.ndarray) -> list[float]:
    """Least squares; as long as a coefficient is negative, the most negative of them is left out."""
    scale = np.abs(rows).max(axis=0).clip(min=1e-300)
    kept = list(range(rows.shape[1]))
    while True:
        answer = np.linalg.lstsq(rows[:, kept] / scale[kept], want, rcond=None)[0]
        if (answer >= 0).all():
            break
        kept.pop(int(answer.argmin()))
    out = np.zeros(rows.shape[1])
    out[kept] = answer / scale[kept]
    return [float(value) for value in out]


def predicted(
    coefficients: Mapping[str, Mapping[str, float]], point: Mapping[str, Any], size: Size | None = None
) -> dict[str, float]:
    """Seconds of a step by part, and in all as `seconds`."""
    have = terms(point, size)
    parts = {part: sum(coefficients[part][n] * have[part][n] for n in names) for part, names in TERMS.items()}
    return {**parts, "seconds": sum(parts.values())}
