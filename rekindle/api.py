"""The Python interface: the same runs and evaluations as the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.tokens.sampling.base import Sampling
from rekindle.train.evaluate import Evaluation
from rekindle.train.evaluate import evaluate as measure
from rekindle.train.run import make_run
from rekindle.train.start import Asked, launch, prepare


def train(
    method: str,
    *,
    model: str = "embedded",
    task: str | None = None,
    data: str | Path | None = None,
    reward: Sequence[str] = (),
    steps: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    options: Mapping[str, Any] | None = None,
    heard: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train and return the run folder (`final/` in it is a Hugging Face folder).

    method: a name of the shelf or "FILE.py:function". task or data: a shipped task, or a JSONL or parquet file.
    reward: "FILE.py:function[=weight]". options: dotted option -> value, as `--set`. heard: called with every record of
    the run. Raises InputError (one sentence with the remedy) and GuardStop.
    """
    flags = {
        "model": model,
        "task": task,
        "data": None if data is None else str(data),
        "reward": tuple(reward) or None,
        "steps": steps,
        "seed": seed,
        "out": None if out is None else str(out),
    }
    given = {name: value for name, value in flags.items() if value is not None}
    resolved, found = prepare(Asked(method, {**given, **(options or {})}))
    return launch(resolved, found, resume=resume, heard=heard or (lambda record: None)).root


def evaluate(
    model: str | Path,
    *,
    task: str | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    samples: int = 32,
    ks: Sequence[int] = (1, 4, 16),
    prompts: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Evaluation:
    """Sample `samples` responses to each labelled prompt of a split, at temperature 1 and top-p 1, and measure.

    split: "heldout" where the task has one, else "train". prompts: at most so many of them. ks: of pass@k and maj@k.
    """
    source = {"task": task} if data is None else {"data": str(data)}
    flags = {"model": str(model), "seed": seed, "device": device, **{n: v for n, v in source.items() if v is not None}}
    resolved, found = prepare(Asked("grpo", flags))
    run = make_run(resolved, found)
    examples = found.split(split or ("heldout" if "heldout" in found.splits else "train"))[:prompts]
    rollout = resolved.config.rollout
    settings = Sampling(max_tokens=rollout.max_tokens, stop=rollout.stop, block=rollout.block)
    return measure(run.sampler, run.verifier, examples, settings, samples=samples, ks=ks, seed=seed)
