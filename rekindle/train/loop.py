"""The loop: resolve schedules, take a step, log it, evaluate and checkpoint now and then. It knows no method."""

from __future__ import annotations

import time
from typing import Any

from rekindle.core.evolution import Evolution
from rekindle.errors import EngineDead, GuardStop
from rekindle.tokens.sampling.base import Clocked
from rekindle.train.archive import keeps_rollouts, write_rollouts
from rekindle.train.card import write_model_card
from rekindle.train.checkpoint import save_model
from rekindle.train.collapse import kept_by, noted, told_to_stop, watched
from rekindle.train.counts import write_counts
from rekindle.train.credits import write_credits
from rekindle.train.digests import digests
from rekindle.train.durable import partial_of, publish
from rekindle.train.evaluate import Evaluation, blocks_at_once, evaluate, evaluation_sampling, quick_ks, spread
from rekindle.train.events import Log
from rekindle.train.finals import leave_merged
from rekindle.train.folder import Folder, Listener
from rekindle.train.levels import warn_of_step
from rekindle.train.ranks import RankLost
from rekindle.train.refusals import evaluated_split
from rekindle.train.retention import improved
from rekindle.train.rewarded import attend
from rekindle.train.ruled import evaluated_by
from rekindle.train.run import Run
from rekindle.train.searches import flat
from rekindle.train.step import one_step, record_of
from rekindle.train.taking import halted_step, save_together, stop

UNEVALUATED = "unevaluated"
"""In `run.watched`: the engine died in the evaluation of the step that the run stands behind."""


def train(run: Run, folder: Folder | None, log: Log, heard: Listener) -> None:
    """Take the steps that are left. Every record goes to `log` and to `heard` (the live view)."""
    steps = run.resolved.config.steps
    attend(run, heard)
    if run.step_index < steps and (number := run.halt.agreed(run.ranks)) is not None:  # it came while the run loaded
        stop(run, folder, log, heard, number, saved=bool(run.step_index) or run.reopened is not None)
    if run.watched.get(UNEVALUATED):
        run.record = record_of(run, run.step_index - 1)
        settle(run, folder, log, heard)
    while run.step_index < steps:
        began = time.perf_counter()
        taken = one_step(run, lambda: halted_step(run, folder, log, heard))
        seconds = time.perf_counter() - began
        heard(noted(run, log.write("step", run.step_index, taken.values, time=timing(run, seconds))))
        write_digests(run, log)
        for text in taken.warned:
            heard({"kind": "note", "step": run.step_index, "text": text})
        if run.last_rollouts:
            heard(shown_sample(run))
        warn_of_step(run, log, heard)
        settle(run, folder, log, heard)


def settle(run: Run, folder: Folder | None, log: Log, heard: Listener) -> None:
    """What follows a step that is taken and told of, up to whether the run goes on."""
    saved = after_step(run, folder, log, heard)
    refuse_to_spin(run)
    refuse_to_collapse(run, folder, log, saved)
    if run.step_index < run.resolved.config.steps and (number := run.halt.agreed(run.ranks)) is not None:
        stop(run, folder, log, heard, number, saved=saved)


def write_digests(run: Run, log: Log) -> None:
    """The event `weights`: what the weights are after this step, tensor by tensor. All ranks call it."""
    every = run.resolved.config.checkpoint.digests
    if every and run.step_index % every == 0:
        log.write("weights", run.step_index, digests(run.trainable(), run.ranks))


def refuse_to_spin(run: Run) -> None:
    """GuardStop after `empty_steps` steps in a row in which no answer taught anything.

    A one-shot run goes on once its example is solved: what happens then is what it is for (arXiv 2504.20571).
    """
    config, empty = run.resolved.config, run.memory["empty_steps"]
    solved = any(max(shares) > 0 for shares in run.memory["history"].values())
    limit = 0 if config.one_shot is not None and solved else config.empty_steps
    if limit and empty >= limit and run.step_index < run.resolved.config.steps:
        if isinstance(run.record, Evolution):
            raise GuardStop(flat(empty))
        raise GuardStop(
            f"no response taught anything in the last {empty} steps: every advantage was zero (groups/all_right and "
            "groups/all_wrong in the events): use harder or easier data, a method for such groups (docs/methods.md), "
            "or set empty_steps=0 to go on with what the regularisers do"
        )


def refuse_to_collapse(run: Run, folder: Folder | None, log: Log, saved: bool) -> None:
    """GuardStop, the step saved, where the run is to stop at a collapse and shows one. saved: whether it is already."""
    why = told_to_stop(run, None if folder is None else folder.checkpoints)
    if why is None:
        return
    if folder is not None and not saved:
        save_together(run, folder, log)
    raise GuardStop(why)


def after_step(run: Run, folder: Folder | None, log: Log, heard: Listener) -> bool:
    """Keep rollouts, evaluate and checkpoint where this step asks for it; whether there is a checkpoint of it."""
    config, best, late = run.resolved.config, False, run.watched.pop(UNEVALUATED, False)
    if folder is not None and keeps_rollouts(run, run.step_index):
        if run.last_rollouts:
            write_rollouts(folder.rollouts, run.step_index, run.last_rollouts, run.trained, config.checkpoint.tokens)
        write_credits(folder.credits, run.step_index, run)
    if config.evaluate.every and run.step_index % config.evaluate.every == 0:
        values = kept_evaluation(run, folder, log)
        heard(noted(run, log.write("eval", run.step_index, values)))
        best = improved(run.watched, kept_by(config), run.step_index, values)
    watched(run, log, heard)
    if folder is None:
        return False
    often = (config.checkpoint.every, config.checkpoint.archive)
    due = any(every and run.step_index % every == 0 for every in often)
    if best or due or late or (config.checkpoint.every and run.step_index == config.steps):
        save_together(run, folder, log)
        return True
    return False


def kept_evaluation(run: Run, folder: Folder | None, log: Log) -> dict[str, float]:
    """`quick_evaluation`, its counts kept. If the engine dies, the step is saved, and --resume evaluates it first."""
    try:
        found = quick_evaluation(run)
    except RankLost:
        raise
    except EngineDead:
        if folder is not None and run.resolved.config.checkpoint.every:
            run.watched[UNEVALUATED] = True
            save_together(run, folder, log)
        raise
    if folder is not None and not run.ranks.index:
        write_counts(folder.evaluations, run.step_index, evaluated_split(run.task), found)
    return dict(found.mean)


def finish(run: Run, folder: Folder) -> None:
    """Leave the trained model and its card in `final/`; it appears whole or not at all. All ranks call it."""
    if run.copy is not None:
        run.copy.refresh()
    if run.ranks.index or folder.final.exists():
        return
    partial = partial_of(folder.final)
    save_model(run, partial)
    write_model_card(run, partial, folder.final.name)
    leave_merged(run, folder.root)
    publish(partial, folder.final)


def quick_evaluation(run: Run) -> Evaluation:
    """Held-out metrics at temperature 1 and top-p 1; on the training split where the task has no other."""
    config = run.resolved.config
    examples = spread(run.task.split(evaluated_split(run.task)), config.evaluate.prompts)
    n = config.evaluate.samples
    settings = evaluation_sampling(run.resolved)
    run.fresh()
    how = {"samples": n, "ks": quick_ks(n), "seed": config.seed, "at_once": blocks_at_once(run)}
    return evaluate(evaluated_by(run), run.verifier, examples, settings, **how)


def shown_sample(run: Run) -> dict[str, Any]:
    """One response of the step for the live view, another row each step. No event: `rollouts/` holds all."""
    rollouts, verdicts = run.last_rollouts[0]
    row = run.step_index % len(rollouts)
    return {
        "kind": "sample",
        "step": run.step_index,
        "prompt": rollouts.example[row].prompt,
        "response": rollouts.text[row],
        "success": bool(verdicts.success[row]),
    }


def timing(run: Run, seconds: float) -> dict[str, float]:
    """What a step took: seconds by part, and sampled tokens a second (where nothing is sampled, trained ones)."""
    tokens = sum(int(rollouts.mask.sum()) for rollouts, _ in run.last_rollouts)
    clocked = run.sampler.clocked() if isinstance(run.sampler, Clocked) else {}
    # Ahead of the updates, tokens are drawn for as long as a step takes; "sample" is what it waited for them.
    drawing = seconds if run.ahead is not None else run.seconds.get("sample", seconds)
    return {"seconds": seconds, **run.seconds, **clocked, "tokens_per_s": tokens / max(drawing, 1e-9)}
