"""The tables of docs/collapse.md, from the stored runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.collapse.cells import CELLS, FELL, PASS, SEEDS, SPENT
from benchmarks.collapse.score import Played, Score, play, score, wilson
from rekindle.train.collapse import EVALUATED, UNEVALUATED, VERIFIED, VOTED
from rekindle.train.sections_watch import Watch
from rekindle.train.signals import SIGNALS

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "collapse.md"
BEGIN, END = "<!-- runs: begin (python -m benchmarks.collapse page) -->", "<!-- runs: end -->"
Plays = Mapping[tuple[str, bool], Sequence[Played]]
"""(part, whether the watch hears of the evaluations) -> its runs as the watch with its defaults saw them."""
HEARD = {True: "with held-out evaluation", False: "training alone"}


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def share(counts: tuple[int, int]) -> str:
    """`18/20 = 90 % (70 to 97)`: a share and its 95 % interval."""
    hits, total = counts
    if not total:
        return "-"
    low, high = wilson(hits, total)
    return f"{hits}/{total} = {hits / total:.0%} ({low:.0%} to {high:.0%})".replace("%", " %")


def leads(found: Score) -> str:
    """`9 (3 to 27)`: the median lead and its range, in steps."""
    return f"{median(found.leads):g} ({found.leads[0]} to {found.leads[-1]})" if found.leads else "-"


def played(runs: Sequence[Mapping[str, Any]]) -> Plays:
    """All runs, played once with and once without their evaluations."""
    return {
        (part, evaluated): [play(run, Watch(), evaluated) for run in runs if run["part"] == part]
        for part in CELLS
        for evaluated in HEARD
    }


def verdicts(plays: Plays) -> str:
    """What the verdict was worth, by part and by what the watch heard of."""
    lines = []
    for part in CELLS:
        for evaluated, heard in HEARD.items():
            found = score(plays[part, evaluated])
            fell, all_of = found.hits + found.misses, len(plays[part, evaluated])
            said = [f"{fell} of {all_of}", share(found.precision), share(found.recall), leads(found)]
            lines.append([part, heard, *said, str(found.false_alarms), str(found.misses)])
    head = ["runs", "the watch hears", "collapsed", "precision", "recall", "lead, steps", "false alarms", "misses"]
    return table(head, lines)


def alone(plays: Plays) -> str:
    """Each sign by itself on the scored runs."""
    some, lines = plays["scored", True], []
    for name in SIGNALS:
        found = score(some, name)
        fell, stayed = found.hits + found.misses, found.false_alarms + found.quiet
        lines.append([f"`{name}`", f"{found.hits} of {fell}", f"{found.false_alarms} of {stayed}", leads(found)])
    return table(["sign", "told in collapsed runs", "told in others", "lead, steps"], lines)


def wrong(plays: Plays) -> str:
    """The scored runs on which the verdict with held-out evaluation erred."""
    lines = [
        [
            one.run["cell"],
            str(one.run["seed"]),
            "missed" if one.label.collapsed else f"false alarm at {one.warned}",
            f"{one.label.passed:.2f}",
            f"{one.label.entropy:.2f}",
        ]
        for one in plays["scored", True]
        if one.label.collapsed != (one.warned is not None)
    ]
    head = ["run", "seed", "the verdict", f"{PASS} left of its best", "entropy left of the start's"]
    return table(head, lines) if lines else "There was none."


def every(plays: Plays) -> str:
    """Every scored run: its label, and when it was told of."""
    lines = []
    for one, two in zip(plays["scored", True], plays["scored", False], strict=True):
        label = f"collapsed at {one.label.at}" if one.label.collapsed else "-"
        left = [f"{one.label.passed:.2f}", f"{one.label.entropy:.2f}"]
        told = ["-" if p.warned is None else str(p.warned) for p in (one, two)]
        lines.append([one.run["cell"], str(one.run["seed"]), *left, label, *told])
    return table(
        ["run", "seed", f"{PASS} left", "entropy left", "label", *(f"told, {h}" for h in HEARD.values())], lines
    )


def rule() -> str:
    """The rule and the split in words, from the code."""
    watch = Watch()
    numbers = [f"`watch.{name}={getattr(watch, name):g}`" for name in THRESHOLDS]
    split = "; ".join(
        f"{part}: {len(CELLS[part])} settings, seeds {SEEDS[part][0]} and {SEEDS[part][1]}" for part in CELLS
    )
    return (
        f"**The label**: collapsed = the final held-out {PASS} below {FELL:g} of its best, and the final entropy below "
        f"{SPENT:g} of the start's.\n\n"
        f"**The rule**: a run is called collapsing where one sign of each group shows. Label-free: {groups(VOTED)}. "
        f"With known answers: {groups(VERIFIED)}. And, with held-out evaluations, {groups(EVALUATED)}; without "
        f"them, of a run with known answers, {groups(UNEVALUATED)}. "
        f"The levels that it rests on: {', '.join(numbers)}.\n\n"
        f"**The split**: {split}."
    )


THRESHOLDS = ("spent", "slope", "slope_steps", "majority", "distinct", "reward", "drop", "start", "smooth")


def groups(ground: Sequence[Sequence[str]]) -> str:
    """`` (`spent` or `slope`) and `lock_in` ``."""
    said = [" or ".join(f"`{name}`" for name in some) for some in ground]
    return " and ".join(f"({one})" if " or " in one else one for one in said)


def section(plays: Plays) -> str:
    """All that is generated."""
    return "\n\n".join(
        [
            rule(),
            "### What the verdict was worth",
            verdicts(plays),
            "### Where it erred, on scored runs",
            wrong(plays),
            "### Each sign alone, on scored runs",
            alone(plays),
            "### Every scored run",
            every(plays),
        ]
    )


def page(runs: Sequence[Mapping[str, Any]], text: str) -> str:
    """The page's text with the section in its place."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{section(played(runs))}\n\n{END}{after}"
