"""What the collapse watch sees at the end of a run, whoever trained it and whether or not it watched itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rekindle.report.recording import Recording
from rekindle.report.series import label_free
from rekindle.train.collapse import Sight, look, sentences
from rekindle.train.sections_watch import Watch
from rekindle.train.traces import fresh, remember, seen, start_evaluation


def overseen(run: Recording) -> tuple[Sight | None, dict[str, str]]:
    """What the watch sees at the end of the run, and its sentences; None where there are no steps."""
    watch, sight = watch_of(run.options), None
    votes = any("vote/majority_share" in step for step in run.steps)
    free = votes or (bool(label_free(run.options)) and not run.options.get("reward"))
    evals = {int(e["step"]): e for e in run.of_kind("eval")}
    base = [start for record in run.of_kind("baseline") for start in start_evaluation(record)]
    memory = fresh(bool(run.options.get("evaluate.every")) or len(base) + len(evals) > 1)
    memory["evals"] += base
    for step in run.steps:
        remember(memory, {"kind": "step", **step}, watch)
        if int(step["step"]) in evals:
            remember(memory, evals[int(step["step"])], watch)
        if int(step["step"]) % watch.every == 0 or step is run.steps[-1]:
            sight = look(memory, free, watch)
    if sight is None:
        return None, {}
    everything = Sight(sight.open, sight.open, sight.collapsing, sight.collapsing)
    # What another trainer ran is a kind of GRPO for the remedies, which name options of this package.
    options = {"method": "grpo", **run.options}
    return sight, sentences(everything, seen(memory, free), watch, options)


def watch_of(options: Mapping[str, Any]) -> Watch:
    """The watch as the run has it, with its defaults where another trainer ran; at every step where it was off.

    A run that told nothing while it trained is looked at all the same: the page must not call unseen what is sound.
    """
    own = Watch(**{f.name: options[f"watch.{f.name}"] for f in fields(Watch) if f"watch.{f.name}" in options})
    return own if own.every else replace(own, every=1)


def too_short(run: Recording) -> bool:
    """Whether the run has no step after those that are its start, so that there is nothing to hold against it."""
    return len(run.steps) <= watch_of(run.options).start
