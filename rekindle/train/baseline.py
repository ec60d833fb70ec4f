"""The line that a label-free run has to beat: maj@k of the frozen start model on the training prompts."""

from __future__ import annotations

from itertools import islice

from rekindle.tokens.tasks.lazy import looked_at
from rekindle.train.evaluate import blocks_at_once, evaluate, evaluation_sampling
from rekindle.train.events import Log
from rekindle.train.folder import Listener
from rekindle.train.run import Run


def write_baseline(run: Run, log: Log, heard: Listener) -> None:
    """Measure the start model on `evaluate.prompts` labelled training prompts, if the method votes and there are any.

    At temperature 1 and top-p 1, as every evaluation. References serve this measurement only: nothing of
    it reaches the update.
    """
    config = run.resolved.config
    labelled = list(islice((e for e in looked_at(run.examples) if e.answer is not None), config.evaluate.prompts))
    if not run.label.votes or not labelled or not config.evaluate.baseline:
        return
    n = config.evaluate.samples
    ks = sorted({k for k in (1, 16, n) if k <= n})
    settings = evaluation_sampling(run.resolved)
    run.fresh()
    how = {"samples": n, "ks": ks, "seed": config.seed, "at_once": blocks_at_once(run)}
    found = evaluate(run.sampler, run.verifier, labelled, settings, **how)
    values = {f"start/{name}": value for name, value in found.mean.items()}
    heard(log.write("baseline", 0, {**values, "prompts": found.prompts, "samples": n}))
