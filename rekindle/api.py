"""The Python interface: the same runs and evaluations as the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.train.evaluate import Evaluation
from rekindle.train.measure import Measure, evaluate_model, load_source, task_sampling
from rekindle.train.refusals import evaluated_split
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
    reward: "[PREFIX:]FILE.py|MODULE:function[=weight]". options: dotted option -> value, as `--set`. heard: called with
    every record of the run. Raises InputError (one sentence with the remedy) and GuardStop.
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
    resolved, found = prepare(Asked(method, {**given, **(options or {})}), resume)
    return launch(resolved, found, resume=resume, heard=heard or (lambda record: None)).root


def evaluate(
    model: str | Path,
    *,
    task: str | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    samples: int = 32,
    ks: Sequence[int] | None = None,
    prompts: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    max_tokens: int | None = None,
) -> Evaluation:
    """Sample `samples` responses to each labelled prompt of a split, at temperature 1 and top-p 1, and measure.

    The same numbers as `rekindle eval`. model: a run folder, a model folder, a hub id or "embedded". split: "heldout"
    where the task has one, else "train". prompts: so many of them, evenly spread (None: all). ks: of pass@k and maj@k
    (None: 1, 4 and 16 as far as `samples` allows). max_tokens: the longest response (None: the task's).
    """
    chosen = load_source(task, data)
    name = split or evaluated_split(chosen)
    how = Measure(
        prompts=prompts,
        samples=samples,
        ks=None if ks is None else tuple(ks),
        seed=seed,
        device=device,
        dtype=dtype,
    )
    return evaluate_model(model, chosen, (name,), task_sampling(chosen, max_tokens), how)[name]
