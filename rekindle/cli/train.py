"""`train`: one run, from what the user typed to a finished folder, shown while it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table, say
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.config import Resolved
    from rekindle.train.loop import Folder
    from rekindle.train.start import Asked

Method = Annotated[str, typer.Argument(help="a method (evol_rl) or FILE.py:function")]
Model = Annotated[str | None, typer.Option(help="a model folder, a hub id, or 'embedded'", metavar="DIR|HUB_ID")]
TaskName = Annotated[str | None, typer.Option(help="a task of the package: reduce (default), digit_sum")]
Data = Annotated[str | None, typer.Option(help="a JSONL or parquet file with 'prompt' and maybe 'answer'")]
Reward = Annotated[list[str] | None, typer.Option(help="a reward, repeatable", metavar="FILE.py:function[=weight]")]
Steps = Annotated[int | None, typer.Option(help="steps of the run")]
Prompts = Annotated[int | None, typer.Option(help="prompts a step")]
GroupSize = Annotated[int | None, typer.Option(help="responses a prompt that are trained on")]
OneShot = Annotated[str | None, typer.Option(help="train on this example only", metavar="ID")]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="local (default) or vllm")]
Seed = Annotated[int | None, typer.Option(help="seed of prompts and samples (default 0)")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float64")]
Config = Annotated[str | None, typer.Option(help="a run.toml to start from", metavar="run.toml")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="any option, repeatable", metavar="PATH=VALUE")]
Out = Annotated[str | None, typer.Option(help="the run folder (default runs/METHOD-TASK-seedN)", metavar="DIR")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the folder's last checkpoint")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print every option and where it comes from, then stop")]
Json = Annotated[bool, typer.Option("--json", help="with --dry-run: print {OPTION: {value, from}}")]


def train(
    method: Method,
    model: Model = None,
    task: TaskName = None,
    data: Data = None,
    reward: Reward = None,
    steps: Steps = None,
    prompts: Prompts = None,
    group: GroupSize = None,
    seed: Seed = None,
    one_shot: OneShot = None,
    sampler: SamplerName = None,
    device: Device = None,
    dtype: Dtype = None,
    config: Config = None,
    sets: Sets = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train a model by a method of the package or your own."""
    from rekindle.train import runfile
    from rekindle.train.start import Asked

    given = {
        "model": model,
        "task": task,
        "data": data,
        "reward": tuple(reward) if reward else None,
        "steps": steps,
        "rollout.prompts": prompts,
        "rollout.group": group,
        "seed": seed,
        "one_shot": one_shot,
        "rollout.sampler": sampler,
        "device": device,
        "dtype": dtype,
        "out": out,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    asked = Asked(method, flags, tuple(sets or ()), runfile.read(config) if config is not None else None)
    if json and not dry_run:
        raise InputError("--json prints a plan: add --dry-run, or drop it and read the run folder's events.jsonl")
    begin(asked, resume=resume, dry_run=dry_run, json=json)


def begin(asked: Asked, *, resume: bool, dry_run: bool, json: bool = False) -> None:
    """Resolve, then print the plan or train. With `resume`, what is not said again is as the run folder has it."""
    from rekindle.train import runfile
    from rekindle.train.start import prepare, run_folder

    resolved, task = prepare(asked)
    folder = run_folder(resolved)
    if resume and asked.toml is None and folder.config.is_file():
        resolved, task = prepare(replace(asked, toml=runfile.read(folder.config)))
    for note in resolved.notes:
        say(f"note: {note}")
    if dry_run:
        print_plan(resolved, json=json)
    else:
        go(resolved, task, resume=resume)


def print_plan(resolved: Resolved, *, json: bool) -> None:
    """Every option with its value and the layer that it comes from, after the numbers that follow from them.

    As JSON, a value that is no number, text, truth value or list of them is the text that the table shows.
    """
    from rekindle.train.options import show
    from rekindle.train.plan import plan

    if json:
        print_json({row.name: {"value": plain(row.value), "from": row.origin} for row in plan(resolved)})
        return
    print_table(("option", "value", "from"), [(row.name, show(row.value), row.origin) for row in plan(resolved)])


def plain(value: Any) -> Any:
    """An option's value as JSON holds it."""
    from rekindle.train.options import show

    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else show(value)


def go(resolved: Resolved, task: Any, *, resume: bool) -> None:
    """Train, show it, and say where the model is."""
    from rekindle.cli.live import open_view
    from rekindle.train.start import launch, run_folder

    config = resolved.config
    title = f"{config.method} on {config.task or Path(str(config.data)).name}, seed {config.seed}"
    try:
        with open_view(title, config.steps) as view:
            folder = launch(resolved, task, resume=resume, heard=view)
    except KeyboardInterrupt:
        where = run_folder(resolved).root
        say(f"interrupted: the same command with --resume goes on from the last checkpoint in {where}")
        raise
    print_end(folder)


def print_end(folder: Folder) -> None:
    """The last metrics, and where the trained model is."""
    from rekindle.cli.live import step_line
    from rekindle.train.events import read_events

    steps = [record for record in read_events(folder.events) if record["kind"] == "step"]
    if steps:
        print(step_line(steps[-1], steps[-1]["step"]))
    print(f"trained model: {folder.final}")
