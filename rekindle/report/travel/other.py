"""Another method in the place of a run's own: its run, brought to where the recorded one stood, and its step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rekindle.core.evolution import Evolution
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Update
from rekindle.errors import GuardStop, InputError
from rekindle.report.travel.offered import Exhausted, Fed, Offered
from rekindle.report.travel.past import Past, described, local
from rekindle.train import runfile
from rekindle.train.build import make_run
from rekindle.train.config import RECORDED, Resolved
from rekindle.train.drawn import sampling_of
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten
from rekindle.train.ruled import lockstep
from rekindle.train.run import Run
from rekindle.train.settings import written_draws
from rekindle.train.start import Asked, prepare
from rekindle.train.step import one_step

CHOSEN = ("run.toml", "flag", "--set")
"""Origins of options that whoever started the run chose."""
After = Callable[[Any, Update], None]


def beside(past: Past, method: str, sets: Sequence[str]) -> tuple[Run, list[str]]:
    """A run of another method under the recorded run's options, at the start weights, and what it took over.

    InputError where the method cannot take a step on stored responses, or not on this data.
    """
    was, task = described(past)
    resolved, carried = other_options(past, was, method, sets)
    if isinstance(resolved.record, Evolution):
        raise InputError(f"'{method}' searches and takes no update on responses: name a method with a gradient")
    if lockstep(resolved.record):
        raise InputError(f"'{method}' draws each token by a rule, and the stored responses were not: name another")
    notes = [f"{path}={value}, as the run has it" for path, value in carried.items()]
    if written_draws(resolved.record):
        notes.append("it learns from responses in the data, not from the stored ones")
    if sampling_of(resolved) != sampling_of(was):
        raise InputError(
            f"--set gives '{method}' other sampling options than the stored responses were drawn by: drop it"
        )
    run = make_run(local(resolved), task)
    run.resolved = resolved
    return run, notes


def other_options(past: Past, was: Resolved, method: str, sets: Sequence[str]) -> tuple[Resolved, dict[str, Any]]:
    """The other method under the run's own options, and those of `descent` that whoever started the run chose."""
    own = was.config.flat()
    said = {path: "none" if value is None else value for path, value in past.saved.options.items() if path in own}
    del said["method"]
    found = find_method(method)
    theirs, origin = flatten(make_method(found)), runfile.read(past.folder.config)[RECORDED].get("origin", {})
    carried = {
        path: past.saved.options[path]
        for path, where in origin.items()
        if path.startswith("descent.") and path in theirs and where in CHOSEN and path not in found.essence
    }
    resolved, _ = prepare(Asked(method, {}, tuple(sets), {**said, **carried}))
    return resolved, {path: value for path, value in carried.items() if resolved.options[path] == value}


def brought(ours: Run, theirs: Run) -> list[str]:
    """Bring `theirs` to the weights, optimiser state, memory and kept tensors of `ours`; what it has none of."""
    mine, notes = dict(ours.trainable()), []
    with torch.no_grad():
        for name, parameter in theirs.trainable():
            if name not in mine:
                notes += [f"its head '{name.split('.')[1]}' is untrained"] if name.endswith("weight") else []
                continue
            parameter.copy_(mine[name])
            state = ours.optimizer.state.get(mine[name])
            if state:
                theirs.optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
    for name in ours.memory.get("snapshots", []):
        notes += _snapshot(ours, theirs, name)
    theirs.step_index, theirs.stale = ours.step_index, True
    theirs.memory, theirs.kept = copy.deepcopy(ours.memory), {n: t.clone() for n, t in ours.kept.items()}
    return notes


def _snapshot(ours: Run, theirs: Run, name: str) -> list[str]:
    old, new = ours.references.get(name), theirs.references.get(name)
    if new is None:
        return []
    if not isinstance(old, nn.Module) or not isinstance(new, nn.Module):
        return [f"its weights '{name}' are those of the start"]
    new.load_state_dict(old.state_dict())
    return []


def lacked(ours: Run, theirs: Run) -> list[str]:
    """What the step of `theirs` began to remember and keep, of which the recorded run had nothing."""
    memory = [name for name in theirs.memory if name not in ours.memory]
    kept = sorted({name.partition(".")[0] for name in theirs.kept} - {name.partition(".")[0] for name in ours.kept})
    notes = [f"it remembers '{name}' from step to step, and began with none" for name in memory]
    return notes + [f"it keeps '{name}' from step to step, and began with none" for name in kept]


class Step:
    """A method at any time of the run, fed with stored prompts; `watch` is told of its updates."""

    def __init__(self, whole: Any, taken: Offered, most: int, watch: After) -> None:
        self.whole, self.taken, self.most, self.watch = whole, taken, most, watch
        self.fed: Fed | None = None

    def at(self, progress: float) -> PolicyGradient:
        """The record of the step."""
        method: PolicyGradient = self.whole.at(progress)
        self.fed = Fed.of(method, self.taken, self.most)
        return self.fed.method.replace(after=(*method.after, self.watch))


def other_step(run: Run, taken: Offered, watch: After) -> dict[str, float]:
    """The step of `run` on stored responses; where it would have gone on sampling, on those prompts that it keeps."""
    memory, kept, whole, most = copy.deepcopy(run.memory), dict(run.kept), run.method, run.prompts_per_step
    run.sampler = taken
    while True:
        step: Any = Step(whole, taken, most, watch)
        run.method = step
        try:
            return one_step(run, lambda: run.record.step(run)).values
        except (Exhausted, GuardStop) as end:
            fed: Fed = step.fed
            if not fed.short:  # it had what it wanted, and stops for another reason
                raise
            most = fed.select.kept
            if not most:
                name = run.resolved.config.method
                raise InputError(f"'{name}' cannot take this step on the stored responses: {end}") from end
            taken.note(f"it would have sampled on: its step is of the {most} stored prompts that it keeps")
            taken.again()
            run.memory, run.kept, run.observed = copy.deepcopy(memory), dict(kept), {}
