"""`rekindle train --ranks N`: a process a rank, watched; the first that fails ends all, and its sentence is said once.

A launcher of clusters (torchrun, accelerate) starts the ranks itself; then this process is one of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rekindle.core.evolution import Evolution
from rekindle.errors import InputError
from rekindle.train import options
from rekindle.train.config import Resolved
from rekindle.train.crew import cause, end, followed, last_words, settled
from rekindle.train.halt import Halt
from rekindle.train.ranks import FORESEEN, MEETING, Place, kind_of, place
from rekindle.train.settings import RunConfig

TOLD, PARENT = "REKINDLE_TOLD", "REKINDLE_PARENT"
"""Environment of a rank that `lead` started: the folder for its last sentence, and the process that watches it."""
UNSAID = ("default", "method", "profile")
"""Origins of options that the user did not choose."""


def placed(resolved: Resolved, here: Place | None, recorded: bool = False) -> Resolved:
    """The resolved run with the ranks that a launcher started, cut so that all who share its work have some.

    Where nobody chose them, `rollout.block` (for ranks, or actors) and `descent.micro_batch` are lowered. recorded: the
    options are those of a run that has begun, which keeps its own. InputError where `--ranks` says another number than
    the launcher.
    """
    count, origin = resolved.config.ranks, dict(resolved.origin)
    if here is not None and count != here.count:
        if origin["ranks"] in ("flag", "--set"):
            some = "1 process was" if here.count == 1 else f"{here.count} processes were"
            raise InputError(f"--ranks {count}, but {some} started: drop --ranks, or start {count}")
        count, origin["ranks"] = here.count, "launcher"
    config, record, notes = replace(resolved.config, ranks=count), resolved.record, list(resolved.notes)
    for path, (value, most, who) in pieces(config, record).items():
        if most >= value:
            continue
        if recorded or origin[path] not in UNSAID:
            notes.append(f"{path}={value} leaves some of the {who} without work: {most} would not")
            continue
        config, record = _with(config, record, path, most)
        origin[path] = "ranks"
        notes.append(f"{path}={most} instead of {value}, so that each of {who} has work; one process, so set, agrees")
    return replace(resolved, config=config, record=record, origin=origin, notes=tuple(notes))


def kept(resolved: Resolved, recorded: Mapping[str, Any]) -> Resolved:
    """The resolved run that goes on: its work is cut as `recorded`, where the user does not say how."""
    config, record, origin = resolved.config, resolved.record, dict(resolved.origin)
    for path, value in resolved.options.items():
        cuts = path == "rollout.block" or path.endswith("descent.micro_batch")
        if cuts and origin[path] in UNSAID and recorded.get(path, value) != value:
            config, record = _with(config, record, path, recorded[path])
            origin[path] = "run.toml"
    return replace(resolved, config=config, record=record, origin=origin)


def _with(config: RunConfig, record: Any, path: str, value: Any) -> tuple[RunConfig, Any]:
    if path in config.flat():
        return options.override(config, path, value), record
    return config, options.override(record, path, value)


def pieces(config: RunConfig, record: Any) -> dict[str, tuple[int, int, str]]:
    """Option -> (its value, the most that leaves all who share it a piece, who they are), of what cuts a run's work."""
    count, rollout, flat = config.ranks, config.rollout, options.flatten(record)
    fleet = rollout.sampler == "ray"
    drawing = config.ray.samplers if fleet else 1 if rollout.sampler == "vllm" and config.vllm.url else count
    enough = -(-rollout.prompts // rollout.block) >= min(drawing, rollout.prompts)
    most = rollout.block if enough else max(1, rollout.prompts // drawing)
    found = {"rollout.block": (rollout.block, most, f"{drawing} {'samplers' if fleet else 'ranks'}")}
    for path in flat if count > 1 else ():
        if path.endswith("descent.micro_batch"):
            updates = flat[path.replace("micro_batch", "minibatches")]
            rows = -(-rollout.prompts * rollout.group // updates)
            most = flat[path] if -(-rows // flat[path]) >= count else -(-rows // count)
            found[path] = (flat[path], most, f"{count} ranks")
    return {} if isinstance(record, Evolution) else found  # ranks share candidates: each has all prompts


def speaks(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process says what concerns the whole run: not where another started it for that run's sake."""
    here = place(environment)
    return here is None or (here.index == 0 and TOLD not in environment)


def lead(arguments: Sequence[str], count: int) -> None:
    """Run `rekindle ARGUMENTS` in `count` processes, to the end. Raises what ended them: once, and by its first cause.

    SIGTERM and SIGINT go on to all of them, which save and end; the second ends them at once. Threads a rank:
    OMP_NUM_THREADS, or an equal share of the cores.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rekindle-ranks-") as folder,
        ranks_of(arguments, count, folder) as crew,
        Halt() as halt,
    ):
        followed(crew, halt)
        codes = settled(crew, Path(folder))
        if any(codes):
            raise cause(codes, last_words(Path(folder)))


@contextmanager
def ranks_of(arguments: Sequence[str], count: int, folder: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The started processes; what is still alive at the end is killed."""
    command = [sys.executable, "-m", "rekindle", *arguments]
    crew: list[subprocess.Popen[bytes]] = []
    shared = environment(count, Path(folder, "meeting")) | {TOLD: folder, PARENT: str(os.getpid())}
    try:
        for index in range(count):
            mine = shared | {"RANK": str(index), "LOCAL_RANK": str(index)}
            out = None if index == 0 else subprocess.DEVNULL  # rank 0 shows the run
            crew.append(
                subprocess.Popen(command, env=mine, stdout=out, stdin=subprocess.DEVNULL, start_new_session=True)
            )
        yield crew
    finally:
        if any(rank.poll() != 0 for rank in crew):
            end(crew, (signal.SIGKILL,))


def environment(count: int, meeting: Path) -> dict[str, str]:
    """What all ranks of one machine are told. They meet in the new file `meeting`: others could reach a port."""
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": str(count), MEETING: str(meeting)}
    # Gloo's sockets between them, too, are opened where no other machine reaches them.
    inside = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    return {"OMP_NUM_THREADS": str(threads)} | inside | dict(os.environ) | address


@contextmanager
def threads_of(ranks: int) -> Iterator[None]:
    """Inside, torch computes with the threads that one of so many ranks of this machine has."""
    before = torch.get_num_threads()
    if ranks > 1 and place() is None:
        said = environment(ranks, Path())["OMP_NUM_THREADS"].partition(",")[0].strip()  # OpenMP takes a list, too
        torch.set_num_threads(max(1, int(said)) if said.isdecimal() else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def as_rank(
    index: int, environment: Mapping[str, str] = os.environ, leave: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """Inside, a foreseen error is left for the process that watches this one, which says it once for all ranks.

    leave: ends the process, at once: threads of torch may be in an exchange that nobody completes, and would abort
    where the interpreter is taken down around them.
    """
    folder, parent = environment.get(TOLD), environment.get(PARENT)
    if folder is None or parent is None:
        yield
        return
    threading.Thread(target=follow, args=(int(parent),), daemon=True).start()
    try:
        yield
    except FORESEEN as error:
        file = Path(folder, f"rank-{index:04d}.json")
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps([kind_of(error).__name__, str(error)]), encoding="utf-8")
        partial.rename(file)
        sys.stdout.flush()
        sys.stderr.flush()
        leave(1)


def follow(parent: int, pause: Callable[[float], None] = time.sleep) -> None:
    """End this process once `parent` is no longer the one that started it: nobody would notice it any more."""
    while os.getppid() == parent:
        pause(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
