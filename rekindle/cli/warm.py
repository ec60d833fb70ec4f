"""`warm`: train a small model from scratch on a task's written examples, as the embedded ones were."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table
from rekindle.errors import unknown

if TYPE_CHECKING:
    from rekindle.tokens.warm import Recipe

Task = Annotated[str, typer.Option(help="a task of the package: reduce, digit_sum")]
Out = Annotated[str, typer.Option(help="a new or empty folder for the model", metavar="DIR")]
Steps = Annotated[int | None, typer.Option(min=1, help="optimiser steps")]
Batch = Annotated[int | None, typer.Option(min=1, help="examples a step")]
Lr = Annotated[float | None, typer.Option(help="peak learning rate")]
Seed = Annotated[int | None, typer.Option(min=0, help="seed of examples and weights")]
Hidden = Annotated[int | None, typer.Option(min=8, help="hidden size")]
Layers = Annotated[int | None, typer.Option(min=1, help="layers")]
Heads = Annotated[int | None, typer.Option(min=1, help="attention heads")]
KvHeads = Annotated[int | None, typer.Option(min=1, help="key-value heads")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads")]
Prompts = Annotated[int, typer.Option(min=1, help="prompts of each split that accuracy is measured on")]
Json = Annotated[bool, typer.Option("--json", help="print what warm.json holds on stdout, progress on stderr")]


def warm(
    task: Task,
    out: Out,
    steps: Steps = None,
    batch: Batch = None,
    lr: Lr = None,
    seed: Seed = None,
    hidden: Hidden = None,
    layers: Layers = None,
    heads: Heads = None,
    kv_heads: KvHeads = None,
    threads: Threads = None,
    prompts: Prompts = 40,
    json: Json = False,
) -> None:
    """Train a small model from scratch on a task's written examples."""
    from rekindle.tokens.tasks import load_task
    from rekindle.tokens.warm import warm as warmed

    chosen = load_task(task)
    given = {"steps": steps, "batch": batch, "lr": lr, "seed": seed, "hidden": hidden, "layers": layers}
    given |= {"heads": heads, "kv_heads": kv_heads, "threads": threads}
    recipe = recipe_of(task, {name: value for name, value in given.items() if value is not None})
    with shown(recipe.steps, to_stderr=json) as progress:
        report = warmed(chosen, Path(out), **asdict(recipe), progress=progress, prompts=prompts)
    if json:
        print_json(report)
        return
    rows = [
        (split, str(found["responses"]), f"{found['pass@1']:.3f}", ways(found["ways"]))
        for split, found in report["accuracy"].items()
    ]
    print_table(("split", "responses", "pass@1", "share of each way"), rows)
    print(f"{report['parameters']} parameters, {report['seconds']:.0f} s, model: {out}")


def recipe_of(task: str, given: dict[str, Any]) -> Recipe:
    """The recipe of the task's shipped model, with what the user gave in place of its numbers."""
    from rekindle.tokens.warm import RECIPES

    if task not in RECIPES:
        raise unknown("task with a warm start", task, RECIPES)
    return replace(RECIPES[task], **given)


def ways(found: dict[str, Any]) -> str:
    """`A 0.25  B 0.25`; nothing where the task knows no ways."""
    return "  ".join(f"{way} {value['share']:.2f}" for way, value in found.items()) if set(found) != {"none"} else ""


@contextmanager
def shown(steps: int, *, to_stderr: bool) -> Iterator[Callable[[int, float], None]]:
    """Progress (step, loss): a bar on a terminal, else a line for each tenth of the steps."""
    if not (sys.stderr if to_stderr else sys.stdout).isatty():
        yield lambda step, loss: tenth(step + 1, steps, loss, to_stderr=to_stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=to_stderr)) as bar:
        task = bar.add_task("warm", total=steps, loss=0.0)
        yield lambda step, loss: bar.update(task, completed=step + 1, loss=loss)


def tenth(done: int, steps: int, loss: float, *, to_stderr: bool) -> None:
    """Print a line where another tenth of the steps is done."""
    if done * 10 // steps > (done - 1) * 10 // steps:
        print(f"step {done}/{steps}  loss {loss:.3f}", file=sys.stderr if to_stderr else sys.stdout, flush=True)
