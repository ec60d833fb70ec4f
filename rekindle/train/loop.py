"""The loop: resolve schedules, take a step, log it, evaluate and checkpoint now and then. It knows no method."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.core.evolution import Evolution
from rekindle.core.types import Metrics, mean_metrics
from rekindle.errors import EngineDead, GuardStop
from rekindle.tokens.sampling.base import Clocked
from rekindle.train.archive import write_rollouts
from rekindle.train.card import write_model_card
from rekindle.train.checkpoint import publish, save_checkpoint, save_model
from rekindle.train.digests import digests
from rekindle.train.evaluate import blocks_at_once, evaluate, evaluation_sampling, spread
from rekindle.train.events import Log
from rekindle.train.finals import leave_merged
from rekindle.train.meter import alarms
from rekindle.train.ranks import RankLost
from rekindle.train.refusals import evaluated_split
from rekindle.train.ruled import evaluated_by
from rekindle.train.run import Run
from rekindle.train.searches import flat

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Folder:
    """The files of a run folder."""

    root: Path

    @property
    def events(self) -> Path:
        """The single record of the run."""
        return self.root / "events.jsonl"

    @property
    def rollouts(self) -> Path:
        """What was sampled, a file a step."""
        return self.root / "rollouts"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.root / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained model."""
        return self.root / "final"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "run.toml"


def train(run: Run, folder: Folder | None, log: Log, heard: Listener) -> None:
    """Take the steps that are left. Every record goes to `log` and to `heard` (the live view)."""
    steps = run.resolved.config.steps
    while run.step_index < steps:
        began = time.perf_counter()
        run.seconds, run.last_rollouts, run.drawn = {}, [], 0
        run.record = run.method.at(run.step_index / max(1, steps - 1))
        if run.verifier.rewards is not None:
            run.verifier.rewards.progress.at(run.step_index, steps, run.memory["prompts"] / len(run.examples))
        metrics = taken_step(run, folder, log)
        values = {**mean_metrics(run.observed), **mean_metrics(metrics), "responses": float(run.drawn)}
        warned = alarms(run.observed) if not run.step_index else []
        run.observed = {}
        run.step_index += 1
        run.memory["empty_steps"] = 0 if metrics["signal"][0] else run.memory["empty_steps"] + 1
        seconds = time.perf_counter() - began
        heard(log.write("step", run.step_index, values, time=timing(run, seconds)))
        write_digests(run, log)
        for text in warned:
            heard({"kind": "note", "step": run.step_index, "text": text})
        if run.last_rollouts:
            heard(shown_sample(run))
        after_step(run, folder, log, heard)
        refuse_to_spin(run)


def write_digests(run: Run, log: Log) -> None:
    """The event `weights`: what the weights are after this step, tensor by tensor. All ranks call it."""
    every = run.resolved.config.checkpoint.digests
    if every and run.step_index % every == 0:
        log.write("weights", run.step_index, digests(run.trainable(), run.ranks))


def taken_step(run: Run, folder: Folder | None, log: Log) -> Metrics:
    """One step. Where the engine that samples dies before its first update, nothing of the steps done is lost."""
    config = run.resolved.config
    if folder is None or config.rollout.sampler == "local" or not config.checkpoint.every or not run.step_index:
        return run.record.step(run)
    memory, kept = copy.deepcopy(run.memory), dict(run.kept)
    try:
        return run.record.step(run)
    except RankLost:  # what it left half done is not known here
        raise
    except EngineDead:
        if "update" not in run.seconds:
            run.memory, run.kept = memory, kept
            save_together(run, folder, log)
        raise


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


def after_step(run: Run, folder: Folder | None, log: Log, heard: Listener) -> None:
    """Evaluate, keep rollouts and checkpoint where this step asks for it."""
    config = run.resolved.config
    if config.evaluate.every and run.step_index % config.evaluate.every == 0:
        heard(log.write("eval", run.step_index, kept_evaluation(run, folder, log)))
    if folder is None:
        return
    kept = config.checkpoint.rollouts and run.step_index % config.checkpoint.rollouts == 0
    if kept and not run.ranks.index:
        write_rollouts(folder.rollouts, run.step_index, run.last_rollouts)
    due = run.step_index == config.steps or run.step_index % max(1, config.checkpoint.every) == 0
    if config.checkpoint.every and due:
        save_together(run, folder, log)


def kept_evaluation(run: Run, folder: Folder | None, log: Log) -> dict[str, float]:
    """`quick_evaluation`. Where the engine that samples dies, the step that was taken is saved, unevaluated."""
    try:
        return quick_evaluation(run)
    except RankLost:
        raise
    except EngineDead:
        if folder is not None and run.resolved.config.checkpoint.every:
            save_together(run, folder, log)
        raise


def save_together(run: Run, folder: Folder, log: Log) -> None:
    """A checkpoint, whole before any rank goes on: the first rank that ends has the others stopped."""
    log.sync()
    save_checkpoint(run, folder.checkpoints, run.resolved.config.checkpoint.keep)
    run.ranks.exchange(None)


def finish(run: Run, folder: Folder) -> None:
    """Leave the trained model and its card in `final/`; it appears whole or not at all. All ranks call it."""
    if run.copy is not None:
        run.copy.refresh()
    if run.ranks.index or folder.final.exists():
        return
    partial = folder.root / ".final.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_model(run, partial)
    write_model_card(run, partial, folder.final.name)
    leave_merged(run, folder.root)
    publish(partial, folder.final)


def quick_evaluation(run: Run) -> dict[str, float]:
    """Held-out metrics at temperature 1 and top-p 1; on the training split where the task has no other."""
    config = run.resolved.config
    examples = spread(run.task.split(evaluated_split(run.task)), config.evaluate.prompts)
    n = config.evaluate.samples
    ks = [k for k in (1, 4, 16) if k <= n]
    settings = evaluation_sampling(run.resolved)
    run.fresh()
    how = {"samples": n, "ks": ks, "seed": config.seed, "at_once": blocks_at_once(run)}
    found = evaluate(evaluated_by(run), run.verifier, examples, settings, **how)
    return dict(found.mean)


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
