"""`train`: one run, from what the user typed to a finished folder, shown while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import WORDS, say
from rekindle.cli.plan import Dry, dry_run
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.config import Resolved
    from rekindle.train.folder import Folder
    from rekindle.train.start import Asked

Method = Annotated[str, typer.Argument(help="a method (evol_rl) or FILE.py:function")]
Model = Annotated[str | None, typer.Option(help="a model folder, a hub id, or 'embedded'", metavar="DIR|HUB_ID")]
TaskName = Annotated[str | None, typer.Option(help="reduce (default), digit_sum, or rg:NAME of reasoning-gym")]
Data = Annotated[str | None, typer.Option(help="a JSONL or parquet file, a data set folder or hub id")]
Reward = Annotated[list[str] | None, typer.Option(help="a reward, repeatable", metavar="FILE.py:function[=weight]")]
Steps = Annotated[int | None, typer.Option(help="steps of the run")]
Prompts = Annotated[int | None, typer.Option(help="prompts a step")]
GroupSize = Annotated[int | None, typer.Option(help="responses a prompt that are trained on")]
Heldout = Annotated[str | None, typer.Option(help="data to evaluate on (with evaluate.every)", metavar="FILE")]
Teacher = Annotated[str | None, typer.Option(help="a causal LM that the method learns from", metavar="FOLDER")]
OneShot = Annotated[str | None, typer.Option(help="train on this example only", metavar="ID")]
SamplerName = Annotated[str | None, typer.Option("--sampler", help="local (default), vllm or ray")]
Samplers = Annotated[int | None, typer.Option(help="actors of --sampler ray")]
Staleness = Annotated[int | None, typer.Option(help="steps that a step's responses may be old (--sampler ray)")]
LoraRank = Annotated[int | None, typer.Option("--lora", help="train low-rank adapters of this rank", metavar="RANK")]
RankCount = Annotated[int | None, typer.Option("--ranks", help="processes that share every step")]
Shard = Annotated[str | None, typer.Option(help="none (DDP, default) or full (FSDP2)")]
Grade = Annotated[str | None, typer.Option("--grade", help="exact (default), math, choice, json or code")]
Unsafe = Annotated[bool, typer.Option("--unsafe-sandbox", help="--grade code even where a program could read files")]
Seed = Annotated[int | None, typer.Option(help="seed of prompts and samples (default 0)")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float64")]
Config = Annotated[str | None, typer.Option(help="a run.toml to start from", metavar="run.toml")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="any option, repeatable", metavar="PATH=VALUE")]
Out = Annotated[str | None, typer.Option(help="the run folder (default runs/METHOD-TASK-seedN)", metavar="DIR")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the folder's last checkpoint")]
StopOnCollapse = Annotated[bool, typer.Option("--stop-on-collapse", help="save and stop at a collapse (exit code 3)")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the plan, its memory and every option, then stop")]
AssumeGpus = Annotated[str | None, typer.Option(help="with --dry-run: plan for these", metavar="COUNTxMEMORY")]
NoProbe = Annotated[bool, typer.Option("--no-probe", help="with --dry-run: measure no speed")]
Json = Annotated[bool, typer.Option("--json", help="with --dry-run: print {OPTION: {value, from}, plan: {...}}")]


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
    heldout: Heldout = None,
    teacher: Teacher = None,
    one_shot: OneShot = None,
    sampler: SamplerName = None,
    samplers: Samplers = None,
    staleness: Staleness = None,
    lora: LoraRank = None,
    ranks: RankCount = None,
    shard: Shard = None,
    grade: Grade = None,
    unsafe_sandbox: Unsafe = False,
    device: Device = None,
    dtype: Dtype = None,
    config: Config = None,
    sets: Sets = None,
    out: Out = None,
    resume: Resume = False,
    stop_on_collapse: StopOnCollapse = False,
    dry: DryRun = False,
    assume_gpus: AssumeGpus = None,
    no_probe: NoProbe = False,
    json: Json = False,
) -> None:
    """Train a model by a method of the package or your own."""
    from rekindle.train.runfile import read
    from rekindle.train.start import Asked

    given = {
        "model": model,
        "data_heldout": heldout,
        "teacher": teacher,
        "task": task,
        "data": data,
        "reward": tuple(reward) if reward else None,
        "steps": steps,
        "rollout.prompts": prompts,
        "rollout.group": group,
        "seed": seed,
        "one_shot": one_shot,
        "rollout.sampler": sampler,
        "ray.samplers": samplers,
        "ray.staleness": staleness,
        "lora.rank": lora,
        "ranks": ranks,
        "shard": shard,
        "grading.by": grade,
        "grading.unsafe_sandbox": unsafe_sandbox or None,
        "device": device,
        "dtype": dtype,
        "out": out,
        "watch.stop": stop_on_collapse or None,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    asked = Asked(method, flags, tuple(sets or ()), None if config is None else read(config))
    refuse_plans(json, assume_gpus, dry)
    how = Dry(json, assume_gpus, probe=not no_probe) if dry else None
    begin(asked, resume=resume, dry=how, words=WORDS.get())


def refuse_plans(json: bool, assume_gpus: str | None, dry: bool) -> None:
    """InputError for what only a plan can do, where none is asked for."""
    if json and not dry:
        raise InputError("--json prints a plan: add --dry-run, or drop it and read the run folder's events.jsonl")
    if assume_gpus is not None and not dry:
        raise InputError("--assume-gpus plans for other hardware than this: add --dry-run, or drop it")


def begin(asked: Asked, *, resume: bool, dry: Dry | None = None, words: Sequence[str] = ()) -> None:
    """Resolve, then print the plan or train. With `resume`, what is not said again is as the run folder has it.

    words: the command line, which the ranks of a run are started with again.
    """
    from rekindle.train.launch import as_rank
    from rekindle.train.ranks import place

    here = place()
    with as_rank(0 if here is None else here.index):
        told(asked, resume=resume, dry=dry, words=words)


def told(asked: Asked, *, resume: bool, dry: Dry | None, words: Sequence[str]) -> None:
    """As `begin`, in a process that may be a rank: of several, only one speaks."""
    from rekindle.train import runfile
    from rekindle.train.launch import speaks
    from rekindle.train.start import prepare, run_folder

    resolved, task = prepare(asked, resume)
    folder = run_folder(resolved)
    if resume and asked.toml is None and folder.config.is_file():
        resolved, task = prepare(replace(asked, toml=runfile.read(folder.config)), resume)
    for note in resolved.notes if speaks() else ():
        say(f"note: {note}")
    if dry is not None:
        dry_run(resolved, task, dry)
    else:
        go(resolved, task, resume=resume, words=words)


def go(resolved: Resolved, task: Any, *, resume: bool, words: Sequence[str] = ()) -> None:
    """Train, in processes of its own where the run has ranks, and say what an interrupted run can be gone on with."""
    from rekindle.train.launch import lead, speaks
    from rekindle.train.ranks import place
    from rekindle.train.start import run_folder

    try:
        if resolved.config.ranks > 1 and place() is None:
            lead(words, resolved.config.ranks)
        else:
            shown(resolved, task, resume=resume)
    except KeyboardInterrupt:
        where = run_folder(resolved).root
        if speaks():
            say(f"interrupted: the same command with --resume goes on from the last checkpoint in {where}")
        raise


def shown(resolved: Resolved, task: Any, *, resume: bool) -> None:
    """Train in this process, show it, and say where the model is; of several ranks the first does."""
    from rekindle.cli.live import open_view
    from rekindle.train.ranks import place
    from rekindle.train.start import launch

    config, here = resolved.config, place()
    if here is not None and here.index:
        launch(resolved, task, resume=resume, heard=lambda record: None)
        return
    title = f"{config.method} on {config.task or Path(str(config.data)).name}, seed {config.seed}"
    with open_view(title, config.steps) as view:
        folder = launch(resolved, task, resume=resume, heard=view)
    print_end(folder)


def print_end(folder: Folder) -> None:
    """The last metrics, and where the trained model is."""
    from rekindle.cli.live import put, step_line
    from rekindle.train.events import read_events

    steps = [record for record in read_events(folder.events) if record["kind"] == "step"]
    if steps:
        put(step_line(steps[-1], steps[-1]["step"]))
    put(f"trained model: {folder.final}")
