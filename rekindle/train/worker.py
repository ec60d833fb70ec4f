"""One member of a comparison in its own process: train, evaluate, leave `result.json`. Takes a job file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rekindle.errors import EngineDead, GuardStop, InputError, Stopped, StoppedByHand
from rekindle.tokens.private import redacted
from rekindle.tokens.tasks.base import Task
from rekindle.train.config import Resolved
from rekindle.train.evaluate import evaluation_sampling
from rekindle.train.measure import Measure, evaluate_model
from rekindle.train.refusals import evaluated_split
from rekindle.train.start import Asked, launch, prepare

CODES = {InputError: 2, GuardStop: 3, EngineDead: 4, StoppedByHand: 130, Stopped: 143}


def measure_model(resolved: Resolved, task: Task, model: str | Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Metric -> value on the held-out split, and `ood_METRIC` on the harder one; `error` holds the standard errors.

    A task with fewer splits is measured on those it has; "train" stands in where there is no held-out split.
    """
    config = resolved.config
    how = Measure(
        prompts=job["prompts"],
        samples=job["samples"],
        ks=tuple(job["ks"]),
        seed=job["eval_seed"],
        device=config.device,
        dtype=config.dtype,
        system_prompt=config.system_prompt,
        grading=config.grading,
        chat_template=config.chat_template,
        thinking=config.thinking,
        option="rollout.max_tokens",
    )
    splits = {split: prefix for prefix, split in (("", evaluated_split(task)), ("ood_", "ood")) if split in task.splits}
    found = evaluate_model(model, task, tuple(splits), evaluation_sampling(resolved), how)
    measured = {splits[split]: evaluation for split, evaluation in found.items()}
    mean = {prefix + name: value for prefix, e in measured.items() for name, value in e.mean.items()}
    # One prompt has no standard error; JSON has no NaN.
    error = {
        p + name: value if value == value else None for p, e in measured.items() for name, value in e.error.items()
    }
    counts = {split: {"samples": e.samples, "right": dict(e.right)} for split, e in found.items()}
    prompts = {p or "heldout": e.prompts for p, e in measured.items()}
    return {"metrics": mean, "error": error, "prompts": prompts, "counts": counts}


def work(job: Mapping[str, Any]) -> None:
    """Do one job. `method` None measures the start model only, with the options of the method `base`."""
    torch.set_num_threads(int(job["threads"]))
    began = time.perf_counter()
    out = Path(job["out"])
    if job["method"] is None:
        resolved, task = prepare(Asked(job["base"], job["flags"], job["sets"]))
        result = measure_model(resolved, task, resolved.config.model, job)
    else:
        asked = Asked(job["method"], {**job["flags"], "out": str(out)}, job["sets"])
        resolved, task = prepare(asked)
        folder = launch(resolved, task, resume=True, heard=lambda record: None)
        result = measure_model(resolved, task, folder.final, job)
    result |= {"method": job["method"], "seed": job["seed"], "seconds": time.perf_counter() - began}
    partial = out / ".result.partial"
    out.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.rename(out / "result.json")


def main(path: str) -> int:
    """Run the job file at `path`; the exit codes of the command line."""
    try:
        work(json.loads(Path(path).read_text(encoding="utf-8")))
    except tuple(CODES) as end:
        print(f"rekindle: {' '.join(redacted(str(end)).split())}", file=sys.stderr)
        return CODES[type(end)]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
