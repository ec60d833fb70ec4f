"""The page's sections without a rival: (d) training, (e) growth, (f) what exactness costs, (g) parts of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.words import AIM, at_least, counted, good, number, percent, profile, ranged, table, times

TARGET = "100M full"
DTYPES = {"full": "float32", "bf16": "bfloat16 autocast"}
GROWTH = {"group": "samples a prompt", "limit": "tokens a response (limit)", "prompts": "prompts a step"}
PASSES = {
    "one pass": "one pass, a separable loss (GRPO)",
    "two passes": "two passes, the same loss",
    "kl_cov": "two passes, a loss over the whole minibatch (KL-Cov)",
}

Rows = Mapping[str, Any]


def training(rows: Rows, parts: Rows) -> list[str]:
    """(d)"""
    body: list[list[str]] = []
    slow: list[str] = []
    for key, row in good(rows).items():
        size, precision = key.split(" ", 1)
        seen, target = row["update"], key == TARGET
        met = at_least(seen["share"]["median"], AIM) if target else "–"
        cells = [size, DTYPES.get(precision, precision), ranged(seen["seconds"], " s"), ranged(seen["matmul_gflops"])]
        body.append([*cells, ranged(seen["share"]), f"at least {AIM:g}" if target else "–", met])
        if seen["share"]["median"] < AIM and "profile" in row:
            slow.append(profile(f"{size} in {DTYPES.get(precision, precision)}", row["profile"]["update"]))
    head = ["size", "dtype", "loss and gradient", "matrix product, GFLOP/s", "share of that rate", "target", ""]
    told = [
        "Where less than half of the rate is reached, this is where the time goes (one profiled run):",
        "",
        *slow,
        "",
    ]
    return [*table(head, body), *(told if slow else [])]


def growth(rows: Rows, parts: Rows) -> list[str]:
    """(e)"""
    body: list[list[str]] = []
    for key, row in good(rows).items():
        seconds = ", ".join(f"{point}: {number(found['median'])} s" for point, found in row["seconds"].items())
        fitted = f"{row['exponent']['median']:.2f} ({row['exponent']['min']:.2f} to {row['exponent']['max']:.2f})"
        body.append([GROWTH.get(key, key), row["size"], seconds, fitted, f"{row['exponent']['n']:.0f}"])
    return table(["what grows", "size", "seconds of a step", "exponent", "fits"], body)


def exactness(rows: Rows, parts: Rows) -> list[str]:
    """(f)"""
    body: list[list[str]] = []
    for size, row in good(rows).items():
        for side, seen in row["sides"].items():
            base = f"({counted(seen['seconds'])})"
            against = times(row["ratios"][side]["by_token"]) if side in row["ratios"] else base
            body.append([size, named(side), ranged(seen["seconds"], " s"), against])
    return table(["size", "update", "loss and gradient", "of the time of one pass"], body)


def named(side: str) -> str:
    """What a side of (f) does."""
    return PASSES.get(side, side)


def parts_of_a_step(rows: Rows, parts: Rows) -> list[str]:
    """(g)"""
    found = good(rows)
    if not found:
        return []
    names = list(dict.fromkeys(part for row in found.values() for part in row["seconds"]))
    body = [[part, *(cell(row["seconds"], part) for row in found.values())] for part in names]
    whole = ["whole step", *(f"{number(sum(row['seconds'].values()))} s" for row in found.values())]
    chart = ["![Where the time of a step goes](performance.png)", ""]
    return [*chart, *table(["part", *found], [*body, whole])]


def cell(seconds: Mapping[str, float], part: str) -> str:
    """ "0.123 s, 45 %"."""
    if part not in seconds:
        return "–"
    return f"{number(seconds[part])} s, {percent(seconds[part] / sum(seconds.values()))}"
