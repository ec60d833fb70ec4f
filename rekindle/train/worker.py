"""One member of a comparison in its own process: train, evaluate, leave `result.json`. Takes a job file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.tokens.sampling.base import Sampling
from rekindle.train.evaluate import Evaluation, evaluate
from rekindle.train.run import Run, make_run, sampling_of
from rekindle.train.start import Asked, launch, prepare

CODES = {InputError: 2, GuardStop: 3, EngineDead: 4}


@dataclass(frozen=True)
class Measure:
    """How a comparison evaluates: `prompts` of each split, `samples` each, at temperature 1 and top-p 1."""

    prompts: int
    samples: int
    ks: tuple[int, ...]
    seed: int = 0


def measure_model(run: Run, how: Measure) -> dict[str, Any]:
    """Metric -> value on the held-out split, and `ood_METRIC` on the harder one; `error` holds the standard errors.

    A task with fewer splits is measured on those it has; "train" stands in where there is no held-out split.
    """
    settings = sampling_of(run.resolved)
    settings = Sampling(max_tokens=settings.max_tokens, stop=settings.stop, block=settings.block)
    main = "heldout" if "heldout" in run.task.splits else "train"
    found: dict[str, Evaluation] = {}
    for prefix, split in (("", main), ("ood_", "ood")):
        if split in run.task.splits:
            examples = spread(list(run.task.split(split)), how.prompts)
            found[prefix] = evaluate(
                run.sampler, run.verifier, examples, settings, samples=how.samples, ks=how.ks, seed=how.seed
            )
    mean = {prefix + name: value for prefix, e in found.items() for name, value in e.mean.items()}
    # One prompt has no standard error; JSON has no NaN.
    error = {p + name: value if value == value else None for p, e in found.items() for name, value in e.error.items()}
    return {"metrics": mean, "error": error, "prompts": {p or "heldout": e.prompts for p, e in found.items()}}


def spread(examples: list[Any], count: int) -> list[Any]:
    """`count` examples evenly spaced over the list (all of them where there are no more): a split keeps its mixture."""
    if len(examples) <= count:
        return examples
    return [examples[i * len(examples) // count] for i in range(count)]


def work(job: Mapping[str, Any]) -> None:
    """Do one job. `method` None measures the start model only, with the options of the method `base`."""
    torch.set_num_threads(int(job["threads"]))
    how = Measure(job["prompts"], job["samples"], tuple(job["ks"]), job["eval_seed"])
    began = time.perf_counter()
    out = Path(job["out"])
    if job["method"] is None:
        resolved, task = prepare(Asked(job["base"], job["flags"], job["sets"]))
        result = measure_model(make_run(resolved, task), how)
    else:
        asked = Asked(job["method"], {**job["flags"], "out": str(out)}, job["sets"])
        resolved, task = prepare(asked)
        folder = launch(resolved, task, resume=True, heard=lambda record: None)
        trained = Asked(job["method"], {**job["flags"], "model": str(folder.final)}, job["sets"])
        result = measure_model(make_run(*prepare(trained)), how)
    result |= {"method": job["method"], "seed": job["seed"], "seconds": time.perf_counter() - began}
    partial = out / ".result.partial"
    out.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.rename(out / "result.json")


def main(path: str) -> int:
    """Run the job file at `path`; the exit codes of the command line."""
    try:
        work(json.loads(Path(path).read_text(encoding="utf-8")))
    except (InputError, GuardStop, EngineDead) as end:
        print(f"rekindle: {' '.join(str(end).split())}", file=sys.stderr)
        return CODES[type(end)]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
