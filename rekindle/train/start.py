"""From what the user said to a finished run folder: resolve, refuse what cannot work, train or resume."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rekindle.core.ranks import Together
from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.private import refuse_private
from rekindle.tokens.reading import text_of
from rekindle.tokens.rewards import reward_files
from rekindle.tokens.tasks.base import Task
from rekindle.train import lock, runfile
from rekindle.train.baseline import write_baseline
from rekindle.train.build import make_run
from rekindle.train.checkpoint import load_checkpoint
from rekindle.train.chosen import chosen
from rekindle.train.config import RECORDED, Resolved, resolve
from rekindle.train.durable import partial_name, storage_told, swept, write_text
from rekindle.train.events import EventLog, Log, NoLog, raw_events
from rekindle.train.find import find_method, make_method
from rekindle.train.firstlook import warn_of_data
from rekindle.train.fits import refuse_hopeless
from rekindle.train.folder import Folder, Listener, refuse_file
from rekindle.train.halt import Halt
from rekindle.train.launch import kept, placed, speaks
from rekindle.train.loop import finish, train
from rekindle.train.manifest import read
from rekindle.train.plan import refuse_changes
from rekindle.train.ranks import agreed, device_of, joined, noticed, place, started
from rekindle.train.retention import newest_whole
from rekindle.train.run import Run
from rekindle.train.runfile import versions
from rekindle.train.searches import told
from rekindle.train.sinks import needed, open_sinks
from rekindle.train.source import data_inputs, source_task


@dataclass(frozen=True)
class Asked:
    """A run as the user asked for it. flags: option -> value of the command line's flags; toml: a parsed run.toml."""

    method: str
    flags: Mapping[str, Any]
    sets: Sequence[str] = ()
    toml: Mapping[str, Any] | None = None


def prepare(asked: Asked, resume: bool = False) -> tuple[Resolved, Task]:
    """The resolved run and its task; InputError, one sentence, for anything that cannot work.

    resume: where its folder holds a run, that run's work stays cut as it is, however many ranks share it now.
    """
    refuse_private(asked.toml, asked.sets, {**asked.flags, "method": asked.method})
    found = find_method(asked.method)
    record = make_method(found)
    task = source_task(asked.toml, asked.sets, asked.flags)
    resolved = resolve(
        found.name,
        record,
        essence=found.essence,
        profile=task.profile,
        toml=asked.toml,
        sets=asked.sets,
        flags=asked.flags,
    )
    file, recorded = run_folder(resolved).config, RECORDED in (asked.toml or {})
    if resume and file.is_file():
        resolved, recorded = kept(resolved, written(file).options), True
    resolved = placed(resolved, started(), recorded)
    return resolved, chosen(resolved, task)


def written(file: Path) -> runfile.Saved:
    """What the run.toml of a run folder records."""
    return runfile.from_toml(text_of(file, "restore it, or name another folder"), str(file))


def run_folder(resolved: Resolved) -> Folder:
    """Where the run goes: --out, or runs/METHOD-TASK-seedN."""
    config = resolved.config
    method = Path(config.method.rpartition(":")[0]).stem if ":" in config.method else config.method
    source = config.task if config.task is not None else Path(str(config.data)).stem
    return Folder(Path(config.out or f"runs/{method}-{source}-seed{config.seed}"))


def claim(folder: Folder, resolved: Resolved, resume: bool) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and why newer ones are passed over; None at the beginning, and of a finished run.

    Takes away what a killed process left unfinished; refuses a folder of another run.
    """
    if not folder.config.exists():
        own = (lock.NAME, partial_name(folder.config))  # all that a process killed before its first file leaves
        if any(path.name not in own for path in folder.root.iterdir()):
            raise InputError(f"the folder {folder.root} holds other files: give an --out that is new or empty")
        swept(folder.root)
        return None, []
    if not resume:
        raise InputError(f"the folder {folder.root} holds a run: add --resume to go on with it, or give another --out")
    saved = written(folder.config)
    refuse_changes(saved.options, resolved.options)
    other = [file for file, digest in inputs(resolved).items() if saved.inputs.get(file, digest) != digest]
    if other:
        raise InputError(f"--resume, but {other[0]} has changed since the run began: restore it, or give another --out")
    for held in (folder.root, folder.checkpoints, folder.rollouts, folder.credits, folder.evaluations):
        swept(held)
    if folder.final.exists():  # whatever became of its checkpoints
        return None, []
    return newest_whole(folder.checkpoints)


def launch(resolved: Resolved, task: Task, *, resume: bool, heard: Listener) -> Folder:
    """Train to the end and return the run folder. `heard` gets every record of the run as it is written.

    In a process that is one of several ranks, `heard` is called on rank 0 only, which alone writes the folder.
    """
    config = resolved.config
    unknown, here = refuse_hopeless(resolved, task), place()
    if unknown is not None and (here is None or not here.index):
        heard({"kind": "note", "step": 0, "text": unknown})
    device = device_of(config.device, here)
    with joined(config.ranks, device, config.shard == "full") as ranks, noticed(ranks):
        return take_part(resolved, task, ranks, device, resume, heard if ranks.index == 0 else lambda record: None)


def take_part(resolved: Resolved, task: Task, ranks: Together, device: str, resume: bool, heard: Listener) -> Folder:
    """This rank's part of the run."""
    folder, leads = run_folder(resolved), ranks.index == 0
    with ExitStack() as open_now:
        halt = open_now.enter_context(Halt(speaks=leads and speaks()))
        start, finished, skipped = agreed(
            ranks, lambda: opened(folder, resolved, resume, heard, open_now) if leads else (None, False, [])
        )[0]
        if finished:
            if leads:
                end_events(folder, resolved.config.steps)
            heard({"kind": "note", "step": resolved.config.steps, "text": f"{folder.root} is finished: nothing to do"})
            return folder
        run = make_run(resolved, task, folder.root if leads else None, ranks, device)
        run.halt = halt
        open_now.callback(run.sampler.close)
        open_now.callback(run.verifier.close)
        open_now.enter_context(storage_told(folder.root))
        log, tell = records(resolved, folder, heard, open_now) if leads else (NoLog(), heard)
        begin(run, folder, log, tell, start, resume, skipped)
        train(run, folder, log, tell)
        finish(run, folder)
        tell(log.write("end", run.step_index, {}))
        ranks.exchange(None)  # no rank leaves while another still writes; vLLM ends the process group when it closes
    return folder


def opened(
    folder: Folder, resolved: Resolved, resume: bool, heard: Listener, open_now: ExitStack
) -> tuple[Path | None, bool, list[str]]:
    """Take hold of the run folder: (the checkpoint to go on from, whether the run is finished, what is passed over)."""
    refuse_file(folder.root)
    open_now.enter_context(lock.locked(folder.root, lambda text: heard({"kind": "note", "step": 0, "text": text})))
    with storage_told(folder.root):
        start, skipped = claim(folder, resolved, resume)
    return start, resume and folder.final.exists(), skipped


def records(resolved: Resolved, folder: Folder, heard: Listener, open_now: ExitStack) -> tuple[Log, Listener]:
    """The log in the run folder, which is made here, and what tells a record to `heard` and to the sinks."""
    needed(resolved.config.track.sinks)
    if not folder.config.exists():  # before any other file: what else a kill leaves is then a run's
        write_text(folder.config, runfile.to_toml(resolved, inputs(resolved)))
    sinks = open_sinks(resolved.config.track.sinks, folder.root, folder.root.name)
    for sink in sinks:
        open_now.callback(sink.close)
    log = open_now.enter_context(EventLog(folder.events))

    def tell(record: dict[str, Any]) -> None:
        heard(record)
        for sink in sinks:
            sink.write(record)

    return log, tell


def end_events(folder: Folder, steps: int) -> None:
    """The last record of a finished run, where a kill came between the final model and it."""
    with storage_told(folder.root):
        if all(record["kind"] != "end" for record in raw_events(folder.events)):
            with EventLog(folder.events) as log:
                log.write("end", steps, {})


def begin(
    run: Run, folder: Folder, log: Log, tell: Listener, start: Path | None, resume: bool, skipped: list[str]
) -> None:
    """Bring the run to its checkpoint, or write what opens a new one."""
    if start is not None:
        load_checkpoint(run, start)
        again(run, log, tell, start, skipped)
        return
    if resume:
        tell({"kind": "note", "step": 0, "text": f"no checkpoint in {folder.root} yet: starting afresh"})
        log.resume(0)
    versions = {"versions": dict(runfile.versions()), "threads": torch.get_num_threads()}
    versions |= {"ranks": run.ranks.count} if run.ranks.count > 1 else {}
    kind = type(unwrapped(run.loaded.model)).__name__
    slower = f"{kind} does not attend to packed tokens: updates pad their rows, which takes more time and memory"
    for text in (*run.verifier.notes, *([] if run.policy.packs else [slower]), *told(run.method, run)):
        tell({"kind": "note", "step": 0, "text": text})
    tell(log.write("start", 0, {"method": run.resolved.config.method, **versions}))
    warn_of_data(run, log, tell)
    write_baseline(run, folder, log, tell)


def again(run: Run, log: Log, tell: Listener, start: Path, skipped: list[str]) -> None:
    """Tell what the run goes on from, what is passed over and why, and which records are void from here on."""
    written = read(start)["versions"]
    told = {"checkpoint": start.name, "skipped": skipped}
    record = log.resume(run.step_index, told)
    tell(record)
    notes = [f"{text}; going on from {start.name}" for text in skipped]
    if record.get("void"):
        notes.append(f"{record['void']} events behind step {run.step_index} are void: that work is done again")
    if record.get("lost"):
        notes.append(f"events.jsonl was gone or empty: the run's record up to step {run.step_index} is lost")
    if record.get("torn"):
        notes.append(f"cut {record['torn']} bytes of an unfinished last line off events.jsonl")
    other = [f"{name} {old}, now {new}" for name, new in versions().items() if (old := written.get(name)) != new]
    if other:
        notes.append(f"{start.name} was written with {', '.join(other)}: what follows may differ by rounding")
    for text in notes:
        tell({"kind": "note", "step": run.step_index, "text": text})


def inputs(resolved: Resolved) -> dict[str, str]:
    """File -> sha256 of what the run reads besides its model: data (of a hub id its commit), methods, rewards."""
    config = resolved.config
    own = [config.method.rpartition(":")[0]] if ":" in config.method else []
    own += reward_files([config.grading.sandbox]) if config.grading.sandbox else []
    files = [file for file in (config.only, config.chat_template, *own, *reward_files(config.reward)) if file]
    return data_inputs(config) | {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
