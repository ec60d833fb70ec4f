"""Tables of a comparison: one row a model, mean and spread over seeds, standard names in a fixed order."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS: Mapping[str, tuple[str, int]] = {
    "pass@1": ("pass@1", 2),
    "pass@16": ("pass@16", 2),
    "maj@16": ("maj@16", 2),
    "entropy": ("entropy", 3),
    "distinct": ("distinct", 2),
    "ood_pass@1": ("ood pass@1", 3),
    "ood_pass@16": ("ood pass@16", 2),
    "invalid_right": ("invalid", 3),
}
"""Metric -> its heading, and the decimals of a mean (one more where there is one seed)."""


def spread(found: Sequence[float | None], digits: int) -> str:
    """`0.67±.02`: mean and standard deviation over seeds; of one seed its value, with one more decimal.

    Seeds without a value (None) are left out; `-` where no seed has one.
    """
    values = [value for value in found if value is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{digits + 1}f}"
    deviation = f"{statistics.stdev(values):.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f}±{deviation.removeprefix('0') if digits else deviation}"


def compare_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, rows) of a comparison's results; `-` where a task has no such metric."""
    rows = {"base": {name: [value] for name, value in results["base"].items()}, **results["methods"]}
    table = []
    for model, found in rows.items():
        cells = [spread(found[name], digits) if name in found else "-" for name, (_, digits) in COLUMNS.items()]
        table.append([model, *cells, f"{statistics.fmean(results['seconds'][model]):.0f}"])
    return ["", *(heading for heading, _ in COLUMNS.values()), "seconds"], table


def contract(results: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """What `compare --json` prints: `{"base": {METRIC: number}, "methods": {NAME: {METRIC: [one value a seed]}}}`."""
    base = {name: results["base"][name] for name in metrics if name in results["base"]}
    return {
        "base": base,
        "methods": {
            method: {name: found[name] for name in base if name in found}
            for method, found in results["methods"].items()
        },
    }
