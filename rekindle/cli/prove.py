"""`prove`: rerun what a method's paper claims against its opponent on a small task, and say whether it shows."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table, say

if TYPE_CHECKING:
    from rekindle.prove.results import Row
    from rekindle.prove.runner import Measured

ALL = "all"


def prove(
    method: Annotated[str, typer.Argument(help="a method, FILE.py:function, or all")],
    seeds: Annotated[int | None, typer.Option(help="paired seeds, 2 to 10 (8 on tables, 3 on language tasks)")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time, each in a process of its own")] = 2,
    json: Annotated[bool, typer.Option("--json", help="print the rows, with a number a seed, as JSON")] = False,
    store: Annotated[bool, typer.Option("--store", help="keep the rows in rekindle/assets/effects.json")] = False,
) -> None:
    """Rerun a method's claims on small tasks with paired seeds: shown, not shown or opposite."""
    from rekindle.methods import names
    from rekindle.prove.results import effect_of
    from rekindle.prove.results import store as keep
    from rekindle.train.find import find_method

    everything: dict[str, list[dict[str, Any]]] = {}
    known: Measured = {}
    for name in names() if method == ALL else (method,):
        slug = find_method(name).name
        rows = _proved(slug, seeds, jobs, known)
        everything[slug] = [dict(vars(row)) for row in rows]
        if not json:
            _show(slug, rows)
        if store:
            keep(slug, rows)
            say(f"{slug}: stored, {effect_of(slug)}")
    if json:
        print_json(everything)


def _proved(slug: str, seeds: int | None, jobs: int, known: Measured) -> list[Row]:
    from rekindle.prove.runner import prove as run

    def heard(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{slug}: run {done} of {total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return run(slug, seeds, jobs, heard, known)


def _show(slug: str, rows: list[Row]) -> None:
    if not rows:
        print(f"{slug}: its card claims nothing that a bed could show")
        return
    print(f"{slug}, {len(rows[0].seeds)} paired seeds: mean±standard deviation, difference and its 95 % t bound")
    table = [_cells(row) for row in rows]
    print_table(("verdict", "bed", "metric", "this", "against", "difference", "bound", "claim"), table)


def _cells(row: Row) -> tuple[str, ...]:
    from rekindle.prove.results import judge

    found = judge(row)
    bound = f"{found.bound:.2g}" + (f" (within {row.within:g})" if row.within is not None else "")
    numbers = (_spread(row.ours), f"{_spread(row.theirs)} {row.against or 'untrained'}", f"{found.mean:+.3g}", bound)
    return (found.verdict, row.bed, row.metric, *numbers, row.claim)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3g}±{statistics.stdev(values):.1g}"
