"""A run folder, opened to be read: what it recorded, and the run that it describes, built anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rekindle.core.ranks import Alone, Together
from rekindle.errors import InputError
from rekindle.train import runfile
from rekindle.train.build import make_run
from rekindle.train.checkpoint import STATE, load_checkpoint
from rekindle.train.config import Resolved
from rekindle.train.corrected import same_numbers
from rekindle.train.events import read_events
from rekindle.train.folder import Folder
from rekindle.train.manifest import damage
from rekindle.train.retention import checkpoints, name_of, stands_at
from rekindle.train.run import Run
from rekindle.train.start import Asked, inputs, prepare

NAMES = ("kind", "step", "time", "nonfinite")
"""What an event has beside its values."""


@dataclass(frozen=True)
class Past:
    """A run as its folder tells it. `events`: (kind, step) -> the values of that event."""

    folder: Folder
    saved: runfile.Saved
    events: Mapping[tuple[str, int], Mapping[str, Any]]

    @property
    def steps(self) -> int:
        """The last step that was recorded."""
        return max((step for kind, step in self.events if kind == "step"), default=0)

    @property
    def start(self) -> Mapping[str, Any]:
        """What the run said of itself when it began: versions, threads, and ranks where there were several."""
        return self.events.get(("start", 0), {})

    @property
    def ranks(self) -> int:
        """The processes that took its steps."""
        return int(self.start.get("ranks", 1))

    def rollouts(self, step: int) -> Path | None:
        """The file of what was sampled in a step, where it was kept."""
        place = self.folder.rollouts / f"{name_of(step, None)}.parquet"
        return place if place.is_file() else None

    def checkpoint(self, step: int) -> Path | None:
        """The checkpoint of a step, where there is one still."""
        place = self.folder.checkpoints / name_of(step, None)
        return place if (place / STATE / "run.json").is_file() else None


def open_past(path: str | Path) -> Past:
    """The run in the folder `path`, which may be going on; InputError where it holds none."""
    folder = Folder(Path(path).expanduser())
    if not folder.config.is_file():
        raise InputError(f"{folder.root} holds no run (no run.toml): give the folder of a run")
    saved = runfile.from_toml(folder.config.read_text(encoding="utf-8"), str(folder.config))
    events = {
        (e["kind"], e["step"]): {n: v for n, v in e.items() if n not in NAMES} for e in read_events(folder.events)
    }
    return Past(folder, saved, events)


def described(past: Past) -> tuple[Resolved, Any]:
    """The run that the folder describes, and its task; InputError where its method is another one by now."""
    resolved, task = prepare(Asked(past.saved.method, {}, (), runfile.read(past.folder.config)))
    if resolved.record_hash != past.saved.record_hash:
        raise InputError(
            f"method '{past.saved.method}' is no longer the record that wrote {past.folder.root}: its file or its "
            f"defaults changed since rekindle {past.saved.versions.get('rekindle')}; check out what the run was made by"
        )
    return resolved, task


def local(resolved: Resolved) -> Resolved:
    """The same run with the sampler of this process: no engine is started, and nothing is drawn ahead."""
    config = resolved.config
    rollout, ray = replace(config.rollout, sampler="local"), replace(config.ray, staleness=0)
    return replace(resolved, config=replace(config, rollout=rollout, ray=ray))


def rebuilt(past: Past, step: int, ranks: Together | None = None, device: str | None = None) -> Run:
    """The run after the newest checkpoint of at most `step` steps, or at its start; it samples in this process."""
    resolved, task = described(past)
    run = make_run(local(resolved), task, None, ranks or Alone(), device)
    run.resolved = resolved
    place = newest(past, step)
    if place is not None:
        try:
            load_checkpoint(run, place)
        except OSError as error:
            raise InputError(
                f"{place} went away while it was read ({error}): the run replaced it; try again"
            ) from error
    return run


def newest(past: Past, step: int) -> Path | None:
    """The newest whole checkpoint between two steps, of at most `step` of them."""
    there = [p for p in checkpoints(past.folder.checkpoints) if stands_at(p)[0] <= step and stands_at(p)[1] < 0]
    return next((place for place in reversed(there) if damage(place) is None), None)


def foreign(resolved: Resolved) -> bool:
    """Whether the run's samples came from other numbers than the model's own."""
    return not same_numbers(resolved.config)


def changed(past: Past, resolved: Resolved) -> list[str]:
    """What is no longer as it was when the run began: versions, and the files that it read."""
    now = runfile.versions()
    told = [
        f"{name} is {now[name]} here and was {was}"
        for name, was in past.saved.versions.items()
        if name in now and now[name] != was
    ]
    files = inputs(resolved)
    told += [f"{file} has changed since" for file, was in past.saved.inputs.items() if files.get(file, was) != was]
    return told


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes with `count` threads: their number decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
