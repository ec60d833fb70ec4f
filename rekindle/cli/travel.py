"""`replay` and `bisect`: a step of a run taken again, and where two runs part. They write to no run folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import travel_text as text
from rekindle.cli.common import WORDS, print_json
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.report.travel.past import Past

Run = Annotated[str, typer.Argument(help="a run folder")]
Side = Annotated[str, typer.Argument(help="a run folder, or a checkpoint folder", metavar="RUN")]
Step = Annotated[int, typer.Option(help="the step to take again")]
Method = Annotated[str | None, typer.Option(help="take it by this method, too: A, A+B or FILE.py:function")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="an option of --method, repeatable", metavar="PATH=VALUE")
]
Ranks = Annotated[int | None, typer.Option(help="processes that take it: as many as then (default), or 1")]
Result = Annotated[str | None, typer.Option(hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="print an object")]


def replay(
    run: Run,
    step: Step,
    method: Method = None,
    sets: Sets = None,
    ranks: Ranks = None,
    json: Json = False,
    result: Result = None,
) -> int:
    """Take a step of a run again, with the responses that it stored, and check it bit for bit.

    With --method, also take it by another method and show both side by side. Ends with 0 where all is equal to what was
    recorded and with 1 where something differs.
    """
    from rekindle.report.travel.past import open_past

    if method is not None:
        return beside(run, step, method, sets or (), json)
    if sets:
        raise InputError("--set is of another method than the run's: add --method NAME, or drop it")
    past = open_past(run)
    count = past.ranks if ranks is None else ranks
    if count not in (1, past.ranks):
        raise InputError(f"{past.ranks} ranks took the steps of {run}: --ranks is that, or 1")
    return together(past, step, count, json, result)


def together(past: Past, step: int, count: int, json: bool, result: str | None) -> int:
    """The replay by `count` ranks, which are started here where there are several; the first of them prints.

    result: where a rank that was started so leaves the exit code.
    """
    from rekindle.train.launch import as_rank, lead
    from rekindle.train.ranks import place

    here = place()
    if count > 1 and here is None:
        with tempfile.TemporaryDirectory(prefix="rekindle-replay-") as folder:
            file = Path(folder, "code")
            lead([*WORDS.get(), "--result", str(file)], count)
            return int(file.read_text())
    with as_rank(0 if here is None else here.index):
        code = again(past, step, count, json, quiet=here is not None and here.index > 0)
    if result is None:
        return code
    if here is None or not here.index:
        Path(result).write_text(str(code))
    return 0


def again(past: Past, step: int, count: int, json: bool, quiet: bool) -> int:
    """This process's part of the replay; quiet: another one prints it."""
    from rekindle.report.travel.replay import replay as taken
    from rekindle.train.ranks import device_of, joined, noticed, place

    options = past.saved.options
    device = device_of(options["device"], place() if count > 1 else None)
    with joined(count, device, count > 1 and options["shard"] == "full") as ranks, noticed(ranks):
        found = taken(past, step, ranks, device)
        ranks.exchange(None)
    if json and not quiet:
        print_json(text.replayed_fields(found))
    elif not quiet:
        text.print_replayed(found)
    return 0 if found.first is None else 1


def beside(run: str, step: int, method: str, sets: Sequence[str], json: bool) -> int:
    """The step by the run's own method and by another."""
    from rekindle.report.travel.past import open_past
    from rekindle.report.travel.side import side_by_side

    found = side_by_side(open_past(run), step, method, sets)
    if json:
        print_json(text.compared_fields(found))
    else:
        text.print_compared(found)
    return 0 if found.replayed.first is None else 1


def bisect(run_a: Side, run_b: Side, json: Json = False) -> int:
    """Find the first step and tensor in which two runs (or two checkpoints) differ, and what differed before it.

    Ends with 0 where all is equal and with 1 where something differs.
    """
    from rekindle.report.travel.bisect import bisect as between
    from rekindle.report.travel.bisect import both_checkpoints, checkpoints_apart

    a, b = (Path(side).expanduser() for side in (run_a, run_b))
    if both_checkpoints(a, b):
        apart = checkpoints_apart(a, b)
        if json:
            print_json({"equal": not apart, "apart": [text.apart_fields(one) for one in apart]})
        else:
            text.print_apart(apart)
            print(f"{len(apart)} tensors or values differ" if apart else "equal, bit for bit")
        return 1 if apart else 0
    found = between(a, b)
    if json:
        print_json(text.bisected_fields(found))
    else:
        text.print_bisected(found)
    return 0 if found.first is None else 1
