"""The line that a label-free run has to beat: maj@k of the frozen start model on the training prompts."""

from __future__ import annotations

from rekindle.train.evaluate import evaluate, evaluation_sampling
from rekindle.train.events import EventLog
from rekindle.train.loop import Listener
from rekindle.train.run import Run


def write_baseline(run: Run, log: EventLog, heard: Listener) -> None:
    """Measure the start model on `evaluate.prompts` labelled training prompts, if the method votes and there are any.

    At temperature 1 and top-p 1, as every evaluation. References serve this measurement only: nothing of
    it reaches the update.
    """
    config = run.resolved.config
    labelled = [e for e in run.examples if e.answer is not None][: config.evaluate.prompts]
    if not run.label.votes or not labelled or not config.evaluate.baseline:
        return
    n = config.evaluate.samples
    ks = sorted({k for k in (1, 16, n) if k <= n})
    settings = evaluation_sampling(run.resolved)
    run.fresh()
    found = evaluate(run.sampler, run.verifier, labelled, settings, samples=n, ks=ks, seed=config.seed)
    values = {f"start/{name}": value for name, value in found.mean.items()}
    heard(log.write("baseline", 0, {**values, "prompts": found.prompts, "samples": n}))
