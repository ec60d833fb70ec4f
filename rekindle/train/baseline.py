"""What the start model does: held out, and for a label-free run the line to beat, maj@k on the training prompts."""

from __future__ import annotations

from itertools import islice

from rekindle.tokens.tasks.lazy import looked_at
from rekindle.train.collapse import noted
from rekindle.train.counts import write_counts
from rekindle.train.evaluate import blocks_at_once, evaluate, evaluation_sampling
from rekindle.train.events import Log
from rekindle.train.folder import Folder, Listener
from rekindle.train.loop import quick_evaluation
from rekindle.train.refusals import evaluated_split
from rekindle.train.run import Run


def write_baseline(run: Run, folder: Folder, log: Log, heard: Listener) -> None:
    """The event `baseline`: `start/METRIC` on training prompts, `heldout/METRIC` on those of the run's evaluations.

    The former where the method votes, on `evaluate.prompts` labelled prompts; the latter where the run evaluates
    (`evaluate.every`), its counts kept as of step 0, and the first evaluation that the collapse watch sees. At
    temperature 1 and top-p 1, as every evaluation. References serve this measurement only: nothing of it reaches the
    update.
    """
    if not run.resolved.config.evaluate.baseline:
        return
    told = to_beat(run) | held_out(run, folder)
    if told:
        heard(noted(run, log.write("baseline", 0, told)))


def to_beat(run: Run) -> dict[str, float]:
    """maj@k and more of the start model on labelled training prompts; empty where nothing votes or none is labelled."""
    config = run.resolved.config
    labelled = list(islice((e for e in looked_at(run.examples) if e.answer is not None), config.evaluate.prompts))
    if not run.label.votes or not labelled:
        return {}
    n = config.evaluate.samples
    ks = sorted({k for k in (1, 16, n) if k <= n})
    settings = evaluation_sampling(run.resolved)
    run.fresh()
    how = {"samples": n, "ks": ks, "seed": config.seed, "at_once": blocks_at_once(run)}
    found = evaluate(run.sampler, run.verifier, labelled, settings, **how)
    return {**{f"start/{name}": value for name, value in found.mean.items()}, "prompts": found.prompts, "samples": n}


def held_out(run: Run, folder: Folder) -> dict[str, float]:
    """The start model's first evaluation, where the run has any."""
    if not run.resolved.config.evaluate.every:
        return {}
    found = quick_evaluation(run)
    if not run.ranks.index:
        write_counts(folder.evaluations, 0, evaluated_split(run.task), found)
    return {f"heldout/{name}": value for name, value in found.mean.items()}
