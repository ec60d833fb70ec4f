"""How `replay` and `bisect` show what they found: tables for people, plain objects for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rekindle.cli.common import print_table

if TYPE_CHECKING:
    from rekindle.report.travel.bisect import Bisected
    from rekindle.report.travel.checkpoints import Apart
    from rekindle.report.travel.compared import Difference
    from rekindle.report.travel.replay import Again, Replayed
    from rekindle.report.travel.side import Compared

SHOWN = 8
"""Names of a list that are printed; --json has them all."""
ROWS = {"prompts", "tokens", "log-probs", "scores", "trained rows"}


def print_replayed(found: Replayed) -> None:
    """A line a step, then what differs, then the notes."""
    columns = ("step", "responses", "from", "metrics", "tensors", "checkpoint")
    print_table(columns, [_row(step) for step in found.steps])
    began = "the start weights" if not found.began else f"the checkpoint of step {found.began}"
    print(f"begun from {began}")
    for note in found.notes:
        print(f"note: {note}")
    differ = [one for step in found.steps for one in step.differ]
    for one in differ[1:SHOWN]:
        print(f"also: {one}")
    if len(differ) > SHOWN:
        print(f"and {len(differ) - SHOWN} more")
    print(f"differs first in {found.first}" if found.first is not None else ending(found))


def ending(found: Replayed) -> str:
    """What holds of a replay in which nothing differs."""
    if found.exact:
        return "equal, bit for bit"
    known = [step.apart for step in found.steps if step.apart is not None]
    metrics = max(step.far for step in found.steps)
    weights = (
        f"weights within {max(known):.1e}" if known else "weights not compared, for no checkpoint is of these steps"
    )
    return f"equal but for rounding: {weights}, metrics within {metrics:.1e}"


def _row(step: Again) -> list[str]:
    wrong = {one.what for one in step.differ}
    far = f", within {step.far:.1e}" if step.far and "metrics" not in wrong else ""
    apart = "none" if step.apart is None else "equal" if not step.apart else f"within {step.apart:.1e}"
    cells = [(str(step.responses), ROWS), (step.source, set[str]()), (f"{step.metrics}{far}", {"metrics"})]
    cells += [(str(step.tensors), {"weights"}), (apart, {"checkpoint"})]
    return [str(step.step), *("DIFFER" if wrong & kinds else text for text, kinds in cells)]


MEASURED = (
    ("loss", "loss"),
    ("gradient norm", "grad_norm"),
    ("updates", "updates"),
    ("tokens given to updates", "tokens"),
    ("share with an advantage", "taught"),
    ("mean |advantage|", "advantage"),
    ("share that filters keep", "kept"),
    ("entropy after, nats", "entropy"),
    ("KL of the update, k1", "k1"),
    ("KL of the update, k3", "k3"),
    ("norm of the weights' change", "moved"),
)
"""Row of the table -> field of `Side`."""


def print_compared(found: Compared) -> None:
    """Both methods, a line a measure, then what the other one lacked."""
    ours, theirs = vars(found.recorded), vars(found.other)
    rows = [(name, number(ours[key]), number(theirs[key])) for name, key in MEASURED]
    print_table((f"step {found.step}", found.recorded.method, found.other.method), rows)
    print(f"entropy before: {found.entropy:.6g} nats, over the {found.tokens} stored tokens")
    said = "one of them did not move" if found.cosine is None else f"{found.cosine:.4f}"
    print(f"cosine of the two changes of weights: {said}")
    for note in found.other.notes:
        print(f"{found.other.method}: {note}")
    for note in found.replayed.notes:
        print(f"note: {note}")
    first = found.replayed.first
    again = f"the replay of {found.recorded.method}"
    print(f"{again} differs from the run first in {first}" if first else f"{again}: {ending(found.replayed)}")


def number(value: float | int | None) -> str:
    """A measure in six digits; a dash where there is none."""
    return "-" if value is None else f"{value:.6g}"


def compared_fields(found: Compared) -> dict[str, Any]:
    """Two methods side by side as JSON."""
    return {
        "step": found.step,
        "entropy_before": found.entropy,
        "tokens": found.tokens,
        "cosine": found.cosine,
        "recorded": dict(vars(found.recorded)),
        "other": dict(vars(found.other)),
        "replay": replayed_fields(found.replayed),
    }


def print_bisected(found: Bisected) -> None:
    """The configuration, each kind of difference, the tensors, and what came first."""
    from rekindle.report.travel.bisect import KINDS

    for name, (ours, theirs) in found.configuration.items():
        print(f"{name}: {ours} and {theirs}")
    if not found.configuration:
        print("configuration, versions, threads and files read: the same")
    a, b = found.steps
    if a != b:
        print(f"{a} and {b} steps: the first {found.common} are compared")
    rows = [(kind, str(found.firsts[kind].step), found.firsts[kind].where) for kind in KINDS if kind in found.firsts]
    if rows:
        print_table(("what", "step", "differs first in"), rows)
    if found.tensors:
        print(f"{counted(found.tensors)} after that step, none up to step {found.after}")
    if found.apart:
        print(f"in the checkpoints of step {found.at}:")
        print_apart(found.apart)
    for note in found.notes:
        print(f"note: {note}")
    print(f"equal in {found.common} steps" if found.first is None else f"the first of all: {found.first}")


def counted(names: list[str]) -> str:
    """How many tensors differ, and which."""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} differ{'' if len(names) > 1 else 's'} ({shown})"


def print_apart(apart: list[Apart]) -> None:
    """A line a tensor, or a value of the memory, the first ones."""
    for one in apart[:SHOWN]:
        print(f"  {one}")
    if len(apart) > SHOWN:
        print(f"  and {len(apart) - SHOWN} more")


def replayed_fields(found: Replayed) -> dict[str, Any]:
    """A replay as JSON."""
    return {
        "equal": found.first is None,
        "exact": found.exact,
        "first": difference_fields(found.first),
        "began": found.began,
        "steps": [step_fields(step) for step in found.steps],
        "notes": found.notes,
    }


def step_fields(step: Again) -> dict[str, Any]:
    """A replayed step as JSON, which has no infinity."""
    far = step.far if step.far != float("inf") else None
    told = {name: value for name, value in vars(step).items() if name != "values"}
    return {**told, "far": far, "differ": [vars(one) for one in step.differ]}


def bisected_fields(found: Bisected) -> dict[str, Any]:
    """A comparison of two runs as JSON."""
    return {
        "equal": found.first is None,
        "first": difference_fields(found.first),
        "configuration": {name: list(pair) for name, pair in found.configuration.items()},
        "steps": list(found.steps),
        "differences": {kind: difference_fields(one) for kind, one in found.firsts.items()},
        "tensors": found.tensors,
        "equal_up_to": found.after,
        "checkpoint": found.at,
        "apart": [apart_fields(one) for one in found.apart],
        "notes": found.notes,
    }


def apart_fields(one: Apart) -> dict[str, Any]:
    """A tensor that differs as JSON, which has no infinity."""
    return {**vars(one), "largest": one.largest if one.largest != float("inf") else None}


def difference_fields(one: Difference | None) -> dict[str, Any] | None:
    """A difference as JSON."""
    return None if one is None else dict(vars(one))
