"""(f) What exactness costs: two passes against one for a separable loss, and a loss that always needs two."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_prompts, write_folder
from benchmarks.speed.paired import described, ratio, turns
from benchmarks.speed.step import JOBS, PROMPT_TOKENS
from benchmarks.speed.training import batch_of, update
from rekindle.methods import kl_cov


def measure(name: str, pairs: int, work: Path) -> dict[str, Any]:
    """Seconds of an update (without the optimiser) in one pass, in two, and of KL-Cov, on the same batch."""
    size, job = SIZES[name], JOBS.get(name, ours.Job())
    folder = write_folder(work / "model", size, make_prompts(size.vocab, 2 * job.prompts, *PROMPT_TOKENS))
    run = ours.make(folder, job)
    batch, lengths = batch_of(run)
    other = kl_cov.method()
    found = turns(
        {
            "one pass": partial(update, run, batch, run.record, lengths, False),
            "two passes": partial(update, run, batch, run.record, lengths, True),
            "kl_cov": partial(update, run, batch, other, lengths),
        },
        pairs,
    )
    sides = {side: described(seen) for side, seen in found.items()}
    ratios = {side: ratio(seen, found["one pass"]) for side, seen in found.items() if side != "one pass"}
    return {"prompts": job.prompts, "group": job.group, "limit": job.limit, "sides": sides, "ratios": ratios}
