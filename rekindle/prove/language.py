"""Language beds: the shipped tasks, trained and measured as `rekindle train` and `rekindle eval` do."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.prove.bed import unknown_name
from rekindle.tokens.tasks.base import Task

METRICS = (
    "pass@1",
    "pass@4",
    "pass@16",
    "maj@4",
    "maj@16",
    "entropy",
    "length",
    "distinct",
    "truncated",
    "invalid_right",
)
STEPS = {"reduce": 60, "digit_sum": 200}
"""Steps where the bed's options say nothing."""
SAMPLES = 16
OWN = ("steps", "prompts", "samples", "split")
QUIET = {"evaluate.baseline": False, "checkpoint.every": 0, "checkpoint.rollouts": 0}


def check_metric(bed: str, metric: str) -> None:
    """InputError where an evaluation has no such metric."""
    if metric not in METRICS:
        raise unknown_name(f"metric of the bed '{bed}'", metric, METRICS)


def run_language(
    bed: str, bed_options: Mapping[str, Any], method: str, options: Mapping[str, Any], seed: int, train: bool
) -> dict[str, float]:
    """Train on the task and evaluate on its held-out split; metric -> mean over prompts.

    bed_options: steps, prompts (of the evaluation), samples, split, and any dotted option of a run for both arms.
    """
    from rekindle.tokens.tasks import load_task
    from rekindle.train.start import Asked, launch, prepare

    own = {name: bed_options[name] for name in OWN if name in bed_options}
    both = {name: value for name, value in bed_options.items() if name not in OWN}
    if not train:
        return measured("embedded", load_task(bed), own)
    with tempfile.TemporaryDirectory(prefix="rekindle-prove-") as folder:
        flags = {"task": bed, "steps": own.get("steps", STEPS[bed]), "seed": seed, "out": str(Path(folder) / "run")}
        resolved, task = prepare(Asked(method, {**QUIET, **both, **options, **flags}))
        run = launch(resolved, task, resume=False, heard=lambda record: None)
        return measured(run.final, task, own)


def measured(model: str | Path, task: Task, own: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> mean over the prompts of a split."""
    from rekindle.train.measure import Measure, evaluate_model, task_sampling
    from rekindle.train.refusals import evaluated_split

    split = own.get("split") or evaluated_split(task)
    how = Measure(prompts=own.get("prompts"), samples=own.get("samples", SAMPLES))
    return dict(evaluate_model(model, task, (split,), task_sampling(task, None), how)[split].mean)
