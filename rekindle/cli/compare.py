"""`compare`: several methods on paired seeds under one profile, from nothing to a table; rerun, it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from rekindle.cli.common import print_json, print_table, say
from rekindle.cli.live import number
from rekindle.cli.table import compare_table, contract
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.compare import Plan

LEAST = 16
"""Samples a prompt that pass@16 and maj@16 need."""

Methods = Annotated[list[str], typer.Argument(help="methods (ttrl evol_rl), or FILE.py:function")]
Seeds = Annotated[int, typer.Option(min=1, help="runs of each method")]
Seed = Annotated[int, typer.Option(min=0, help="the first seed")]
Steps = Annotated[int | None, typer.Option(help="steps of each run")]
TaskName = Annotated[str, typer.Option(help="a task of the package: reduce, digit_sum")]
Model = Annotated[str | None, typer.Option(help="a model folder, a hub id, or 'embedded'", metavar="DIR|HUB_ID")]
Out = Annotated[str | None, typer.Option(help="its folder (default runs/compare-TASK)", metavar="DIR")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="an option of all runs", metavar="PATH=VALUE")]
Prompts = Annotated[int, typer.Option(min=1, help="prompts of each split that are evaluated on")]
Samples = Annotated[int, typer.Option(min=1, help="responses a prompt in the evaluation")]
Jobs = Annotated[int, typer.Option(min=1, help="runs side by side")]
Threads = Annotated[int, typer.Option(min=1, help="threads of each run")]
Json = Annotated[bool, typer.Option("--json", help="print base and methods as JSON on stdout, progress on stderr")]


def compare(
    methods: Methods,
    seeds: Seeds = 3,
    seed: Seed = 0,
    steps: Steps = None,
    task: TaskName = "reduce",
    model: Model = None,
    out: Out = None,
    sets: Sets = None,
    prompts: Prompts = 300,
    samples: Samples = 32,
    jobs: Jobs = 2,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Train each method with each seed, evaluate all and the start model, and print the table."""
    from rekindle.train.compare import METRICS, Plan
    from rekindle.train.compare import compare as compared

    if samples < LEAST:
        raise InputError(f"--samples is {samples}, but pass@16 and maj@16 need 16 samples a prompt: give 16 or more")
    began = time.perf_counter()
    given = {"task": task, "model": model, "steps": steps}
    plan = Plan(
        methods=tuple(methods),
        seeds=tuple(range(seed, seed + seeds)),
        flags={name: value for name, value in given.items() if value is not None},
        sets=tuple(sets or ()),
        prompts=prompts,
        samples=samples,
        jobs=jobs,
        threads=threads,
    )
    folder = Path(out or f"runs/compare-{task}")
    try:
        with Board(steps_of(plan), to_stderr=json) as board:
            results = compared(plan, folder, board)
    except KeyboardInterrupt:
        say(f"interrupted: the same command goes on with what is not finished in {folder}")
        raise
    if json:
        print_json(contract(results, METRICS))
        return
    print_table(*compare_table(results))
    print(
        f"{len(plan.seeds)} seed{'s' if seeds > 1 else ''}, evaluated on {prompts} prompts x {samples} samples; "
        "invalid: share of right answers with an invalid step, over the prompts that have a right answer; "
        f"{time.perf_counter() - began:.0f} seconds in all"
    )


def steps_of(plan: Plan) -> int:
    """Steps of each run."""
    from rekindle.train.compare import equal
    from rekindle.train.start import Asked, prepare

    resolved, _ = prepare(Asked(plan.methods[0], dict(plan.flags), equal(plan)))
    return resolved.config.steps


@dataclass
class Row:
    """Where one member of the comparison is."""

    state: str = "waiting"
    step: int = 0
    last: Mapping[str, Any] = field(default_factory=dict)
    printed: int = 0


class Board:
    """How the members get on: a table on a terminal, else a line a member for each tenth of its steps."""

    def __init__(self, steps: int, *, to_stderr: bool) -> None:
        self.steps = steps
        self.rows: dict[str, Row] = {}
        self.stream = sys.stderr if to_stderr else sys.stdout
        console = Console(stderr=to_stderr)
        self._live = Live(get_renderable=self.render, console=console) if self.stream.isatty() else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, name: str, record: Mapping[str, Any]) -> None:
        """Take in a record of the member `name`."""
        row = self.rows.setdefault(name, Row())
        text: str | None = None
        if record["kind"] == "member":
            row.state = {"started": "training", "done": "done", "kept": "done before"}[record["state"]]
            row.state = "evaluating" if name == "base" and row.state == "training" else row.state
            text = f"{name}: {row.state}"
        elif record["kind"] == "step":
            row.step, row.last = record["step"], record
            text = self._tenth(name, row)
        elif record["kind"] == "end":
            row.state = "evaluating"
        if self._live is None and text is not None:
            print(text, file=self.stream, flush=True)

    def _tenth(self, name: str, row: Row) -> str | None:
        tenth = row.step * 10 // self.steps
        if tenth <= row.printed:
            return None
        row.printed = tenth
        return f"{name}: step {row.step}/{self.steps}  " + "  ".join(f"{n} {v}" for n, v in shown(row.last).items())

    def render(self) -> RenderableType:
        """The table of the members."""
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("run", "", "steps", "entropy", "success", "dead groups", "tokens/s"):
            grid.add_column(heading, no_wrap=True)
        for name, row in self.rows.items():
            bar = ProgressBar(total=self.steps, completed=row.step, width=24) if row.state != "done before" else ""
            values = shown(row.last)
            cells = [values.get(key, "") for key in ("entropy", "success", "dead groups", "tokens/s")]
            steps = (bar, f"{row.step} {row.state}") if name != "base" else ("", row.state)
            grid.add_row(name, *steps, *cells)
        return grid


def shown(record: Mapping[str, Any]) -> dict[str, str]:
    """What is told of a step."""
    names = {"entropy": "entropy", "success": "success", "groups/dead": "dead groups"}
    values = {name: number(record[key]) for key, name in names.items() if key in record}
    return values | ({"tokens/s": f"{record['time']['tokens_per_s']:.0f}"} if record else {})
