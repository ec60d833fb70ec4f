"""One line of a row for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.words import mib, number, ranged, times


def brief(item: str, row: Mapping[str, Any]) -> str:
    """What was found, in short."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    return LINES[item](row)


def step(row: Mapping[str, Any]) -> str:
    """(a)"""
    sides = [side for side in ("rekindle", "trl") if side in row]
    shares = ", ".join(f"{side} {row[side]['share']['median']:.2f}" for side in sides)
    seconds = ", ".join(f"{side} {number(row[side]['seconds']['median'])} s" for side in sides)
    against = f"TRL takes {times(row['ratio']['by_token'])}; " if "ratio" in row else ""
    return f"{against}share of bound: {shares}; {seconds}"


def sampler(row: Mapping[str, Any]) -> str:
    """(b)"""
    speeds = [f"{name} {number(side['tokens_per_s']['median'])}/s" for name, side in row["sides"].items()]
    ratios = [f"{name} takes {times(found['by_token'])}" for name, found in row["ratios"].items()]
    missing = [f"{name}: {why}" for name, why in row["missing"].items()]
    return "; ".join([", ".join(speeds), *ratios, *missing])


def exactness(row: Mapping[str, Any]) -> str:
    """(f)"""
    return "; ".join(f"{side} takes {times(found['by_token'])} of one pass" for side, found in row["ratios"].items())


def parts(row: Mapping[str, Any]) -> str:
    """(g)"""
    return ", ".join(f"{part} {number(seconds)} s" for part, seconds in row["seconds"].items())


LINES = {
    "step": step,
    "sampler": sampler,
    "memory": lambda row: f"{mib(row['peak'])} above the model",
    "training": lambda row: f"share of the matmul rate {ranged(row['update']['share'])}",
    "growth": lambda row: f"exponent {ranged(row['exponent'])}",
    "exactness": exactness,
    "parts": parts,
}
