"""The page's sections with a rival: (a) the whole step, (b) the sampler, (c) memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.words import (
    AIM,
    aim,
    at_least,
    at_most,
    good,
    mib,
    number,
    profile,
    ranged,
    table,
    times,
)

STEP = {"1M": 3.0, "10M": 2.0, "60M": 1.5}
GENERATE = 2.0
VLLM = {"1M": 1.0, "10M": 1.0}
MEMORY = 0.25
# Ours and the settings of TRL that take as many rows a backward pass.
SAME_ROWS = {
    "rekindle": ("trl, its defaults", "trl, no checkpointing"),
    "rekindle, a row at a time": ("trl, a row at a time",),
}
NO_PROFILE = "No profile of it is stored; `make bench WHAT=parts` stores one."

Rows = Mapping[str, Any]


def step(rows: Rows, parts: Rows) -> list[str]:
    """(a) parts: the rows of (g), whose profiles explain what is missed."""
    body: list[list[str]] = []
    slow: list[str] = []
    for size, row in good(rows).items():
        ours, trl, target = row["rekindle"], row.get("trl"), STEP.get(size)
        cells = [
            size,
            f"{row['prompts']} x {row['group']} of at most {row['limit']} tokens",
            ranged(ours["seconds"], " s"),
        ]
        cells += [ranged(trl["seconds"], " s"), times(row["ratio"]["by_token"])] if trl else ["not measured", "–"]
        met = at_least(row["ratio"]["by_token"]["median"], target) if trl and target else "–"
        cells += [f"at least {target:g} x" if target else "–", met]
        cells += [aim(ours["share"]), ranged(trl["share"]) if trl else "–"]
        body.append(cells)
        slow += [size] if "missed" in met + cells[-2] else []
    head = [
        "size",
        "prompts x samples",
        "Rekindle",
        "TRL",
        "TRL takes",
        "target",
        "",
        "share of bound (aim 0.5)",
        "TRL's",
    ]
    micro = [f"{size}: {row['trl_micro_batch']} rows" for size, row in good(rows).items() if "trl_micro_batch" in row]
    told = f"TRL's rows a backward pass, the fastest of those tried: {'; '.join(micro)}." if micro else ""
    return [*table(head, body), *([told, ""] if told else []), *why(slow, parts, ("sample", "update"))]


def sampler(rows: Rows, parts: Rows) -> list[str]:
    """(b)"""
    body: list[list[str]] = []
    slow: list[str] = []
    for size, row in good(rows).items():
        ours = row["sides"]["rekindle"]
        body.append([size, "Rekindle", ranged(ours["tokens_per_s"]), "", "", "", aim(ours["share"])])
        for name, found in row["ratios"].items():
            target = sampler_target(size, name)
            met = at_least(found["by_token"]["median"], target) if target else "–"
            wanted = f"at least {target:g} x" if target else "–"
            side = row["sides"][name]
            cells = [size, name, ranged(side["tokens_per_s"]), times(found["by_token"]), wanted, met]
            body.append([*cells, ranged(side["share"])])
            slow += [size] if "missed" in met else []
        body += [[size, name, f"not measured: {reason}", "–", "–", "–", "–"] for name, reason in row["missing"].items()]
        slow += [size] if ours["share"]["median"] < AIM else []
    head = ["size", "sampler", "tokens a second", "takes, of Rekindle's time", "target", "", "share of bound (aim 0.5)"]
    return [*table(head, body), *why(list(dict.fromkeys(slow)), parts, ("sample",))]


def sampler_target(size: str, name: str) -> float | None:
    """How many times Rekindle's time this side is to take at least, None where nothing is asked."""
    if name == "generate":
        return GENERATE
    return VLLM.get(size) if name.startswith("vllm") else None


def memory(rows: Rows, parts: Rows) -> list[str]:
    """(c)"""
    found = good(rows)
    body = [[name, mib(row["peak"]), mib(row["gradient"])] for name, row in found.items()]
    lines = [line for row in list(found.values())[:1] for line in (shape(row), "")]
    lines += table(["setting", "peak above the model", "of which gradient"], body)
    pairs = [
        (ours, theirs, found[ours]["peak"] / found[theirs]["peak"])
        for ours, rivals in SAME_ROWS.items()
        for theirs in rivals
        if ours in found and theirs in found
    ]
    compared = [[a, b, number(share), f"at most {MEMORY}", at_most(share, MEMORY)] for a, b, share in pairs]
    lines += table(["Rekindle's", "TRL's", "share of TRL's peak", "target", ""], compared)
    if any(not row["reset"] for row in found.values()):
        lines += ["The system did not let the peak be reset; it is that of the whole life of the process.", ""]
    return lines


def shape(row: Mapping[str, Any]) -> str:
    """The batch of (c)."""
    tokens = f"{row['rows']} rows of {row['prompt']} + {row['length']:,} tokens"
    return f"A vocabulary of {row['vocab']:,}; {tokens}, in one backward pass unless the setting says otherwise."


def why(sizes: list[str], parts: Rows, pieces: tuple[str, ...]) -> list[str]:
    """The stored profiles of the sizes at which something is missed."""
    if not sizes:
        return []
    lines = [
        "Where a target or the aim is missed, this is where the time goes (share of operators, one profiled run):",
        "",
    ]
    for size in sizes:
        seen = parts.get(size, {}).get("profile", {})
        lines += [profile(f"{size}, {piece}", seen[piece]) for piece in pieces if piece in seen]
        lines += [] if seen else [f"- {size}: {NO_PROFILE}"]
    return [*lines, ""]
