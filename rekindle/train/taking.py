"""One step, taken whole or saved where it is cut: by a signal between two updates, or by a sampler that dies."""

from __future__ import annotations

import copy
import signal
from typing import NoReturn

from rekindle.core.opened import Opened
from rekindle.core.types import Metrics
from rekindle.errors import EngineDead
from rekindle.train.archive import keeps_rollouts, write_rollouts
from rekindle.train.checkpoint import save_checkpoint
from rekindle.train.events import Log
from rekindle.train.folder import Folder, Listener
from rekindle.train.halt import Halted, stopped
from rekindle.train.ranks import RankLost
from rekindle.train.run import Run


def halted_step(run: Run, folder: Folder | None, log: Log, heard: Listener) -> Metrics:
    """One step; where a signal asks for a stop between two of its updates, the run is saved there and ends."""
    try:
        return taken_step(run, folder, log)
    except Halted as halted:
        number = run.halt.agreed(run.ranks)
        assert number is not None
        if folder is not None and run.last_rollouts and keeps_rollouts(run, run.step_index + 1):
            tokens = run.resolved.config.checkpoint.tokens
            write_rollouts(folder.rollouts, run.step_index + 1, run.last_rollouts, run.trained, tokens)
        stop(run, folder, log, heard, number, opened=halted.opened)


def stop(
    run: Run,
    folder: Folder | None,
    log: Log,
    heard: Listener,
    number: signal.Signals,
    *,
    opened: Opened | None = None,
    saved: bool = False,
) -> NoReturn:
    """Save, where that is not done, and end the run as a signal asked for. opened: the step that it stands in."""
    inside = "" if opened is None else f", the rollouts of the next and {opened.done} of its updates"
    if folder is None:
        raise stopped(number, f"behind step {run.step_index}{inside}; it has no folder, so nothing is saved")
    if not saved:
        save_together(run, folder, log, opened)
    heard(log.write("stop", run.step_index, {"signal": number.name, "updates": 0 if opened is None else opened.done}))
    raise stopped(
        number,
        f"saved in {folder.checkpoints}: all up to step {run.step_index}{inside}; "
        "the same command with --resume goes on",
    )


def taken_step(run: Run, folder: Folder | None, log: Log) -> Metrics:
    """One step. Where the engine that samples dies before its first update, nothing of the steps done is lost.

    Of a step that was begun before, the run is no longer behind the steps done, and the checkpoint that it goes on from
    is there: nothing is saved.
    """
    config = run.resolved.config
    saves = config.rollout.sampler != "local" and config.checkpoint.every and run.step_index
    if folder is None or not saves or run.reopened is not None:
        return run.record.step(run)
    memory, watched, kept = copy.deepcopy(run.memory), copy.deepcopy(run.watched), dict(run.kept)
    try:
        return run.record.step(run)
    except RankLost:  # what it left half done is not known here
        raise
    except EngineDead:
        if "update" not in run.seconds:
            run.memory, run.watched, run.kept = memory, watched, kept
            save_together(run, folder, log)
        raise


def save_together(run: Run, folder: Folder, log: Log, opened: Opened | None = None) -> None:
    """A checkpoint, whole before any rank goes on: the first rank that ends has the others stopped."""
    log.sync()
    save_checkpoint(run, folder.checkpoints, opened)
    run.ranks.exchange(None)
