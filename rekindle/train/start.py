"""From what the user said to a finished run folder: resolve, refuse what cannot work, train or resume."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rekindle.errors import InputError
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.files import load_files
from rekindle.train import runfile
from rekindle.train.baseline import write_baseline
from rekindle.train.build import make_run
from rekindle.train.checkpoint import checkpoints, load_checkpoint
from rekindle.train.chosen import chosen
from rekindle.train.config import Resolved, early, early_source, resolve
from rekindle.train.events import EventLog
from rekindle.train.find import find_method, make_method
from rekindle.train.loop import Folder, Listener, finish, train
from rekindle.train.plan import refuse_changes
from rekindle.train.run import Run
from rekindle.train.sinks import open_sinks


@dataclass(frozen=True)
class Asked:
    """A run as the user asked for it. flags: option -> value of the command line's flags; toml: a parsed run.toml."""

    method: str
    flags: Mapping[str, Any]
    sets: Sequence[str] = ()
    toml: Mapping[str, Any] | None = None


def prepare(asked: Asked) -> tuple[Resolved, Task]:
    """The resolved run and its task; InputError, one sentence, for anything that cannot work."""
    found = find_method(asked.method)
    record = make_method(found)
    said = (asked.toml, asked.sets, asked.flags)
    name, data = early_source(*said)
    files = {split: early(f"data_{split}", *said) for split in ("heldout", "ood")}
    rewarded = bool(early("reward", *said))
    task: Task = load_files(data, **files, rewarded=rewarded) if data is not None else load_task(str(name))
    resolved = resolve(
        found.name,
        record,
        essence=found.essence,
        profile=task.profile,
        toml=asked.toml,
        sets=asked.sets,
        flags=asked.flags,
    )
    return resolved, chosen(resolved, task)


def run_folder(resolved: Resolved) -> Folder:
    """Where the run goes: --out, or runs/METHOD-TASK-seedN."""
    config = resolved.config
    method = Path(config.method.rpartition(":")[0]).stem if ":" in config.method else config.method
    source = config.task if config.task is not None else Path(str(config.data)).stem
    return Folder(Path(config.out or f"runs/{method}-{source}-seed{config.seed}"))


def claim(folder: Folder, resolved: Resolved, resume: bool) -> Path | None:
    """The checkpoint to go on from, None to start at the beginning. Writes nothing; refuses a folder of another run."""
    if folder.root.exists() and not folder.root.is_dir():
        raise InputError(f"{folder.root} is a file: give an --out that is a new or empty folder")
    if not folder.config.exists():
        if folder.root.exists() and any(folder.root.iterdir()):
            raise InputError(f"the folder {folder.root} holds other files: give an --out that is new or empty")
        return None
    if not resume:
        raise InputError(f"the folder {folder.root} holds a run: add --resume to go on with it, or give another --out")
    saved = runfile.from_toml(folder.config.read_text(encoding="utf-8"), str(folder.config))
    refuse_changes(saved.options, resolved.options)
    other = [file for file, digest in inputs(resolved).items() if saved.inputs.get(file, digest) != digest]
    if other:
        raise InputError(f"--resume, but {other[0]} has changed since the run began: restore it, or give another --out")
    there = checkpoints(folder.checkpoints)
    return there[-1] if there else None


def launch(resolved: Resolved, task: Task, *, resume: bool, heard: Listener) -> Folder:
    """Train to the end and return the run folder. `heard` gets every record of the run as it is written."""
    folder = run_folder(resolved)
    start = claim(folder, resolved, resume)
    if resume and folder.final.exists():
        heard({"kind": "note", "step": resolved.config.steps, "text": f"{folder.root} is finished: nothing to do"})
        return folder
    run = make_run(resolved, task, folder.root)
    with ExitStack() as open_now:
        open_now.callback(run.sampler.close)
        sinks = open_sinks(resolved.config.track.sinks, folder.root, folder.root.name)
        for sink in sinks:
            open_now.callback(sink.close)
        if not folder.config.exists():
            folder.root.mkdir(parents=True, exist_ok=True)
            write_whole(folder.config, runfile.to_toml(resolved, inputs(resolved)))
        log = open_now.enter_context(EventLog(folder.events))

        def tell(record: dict[str, Any]) -> None:
            heard(record)
            for sink in sinks:
                sink.write(record)

        begin(run, folder, log, tell, start, resume)
        train(run, folder, log, tell)
        finish(run, folder)
        tell(log.write("end", run.step_index, {}))
    return folder


def begin(run: Run, folder: Folder, log: EventLog, tell: Listener, start: Path | None, resume: bool) -> None:
    """Bring the run to its checkpoint, or write what opens a new one."""
    if start is not None:
        load_checkpoint(run, start)
        tell(log.resume(run.step_index))
        return
    if resume:
        tell({"kind": "note", "step": 0, "text": f"no checkpoint in {folder.root} yet: starting afresh"})
        log.resume(0)
    versions = {"versions": dict(runfile.versions()), "threads": torch.get_num_threads()}
    if not run.policy.packs:
        kind = type(run.loaded.model).__name__
        text = f"{kind} does not attend to packed tokens: updates pad their rows, which takes more time and memory"
        tell({"kind": "note", "step": 0, "text": text})
    tell(log.write("start", 0, {"method": run.resolved.config.method, **versions}))
    write_baseline(run, log, tell)


def inputs(resolved: Resolved) -> dict[str, str]:
    """File -> sha256 of what the run reads besides its model: data, and the files of its method and rewards."""
    config = resolved.config
    specs = [spec.rpartition(":")[0] for spec in (config.method, *config.reward) if ":" in spec]
    files = [config.data, config.data_heldout, config.data_ood, config.only, *specs]
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files if file}


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)
