"""(d) Training: forward and backward of real tokens against the matmul rate measured beside them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_prompts, write_folder
from benchmarks.speed.paired import described, turns
from benchmarks.speed.profile import operators
from benchmarks.speed.step import JOBS, PROMPT_TOKENS
from benchmarks.speed.work import Lengths, Matmul, train_operations
from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch
from rekindle.train.run import Run

LARGE = ours.Job(prompts=4)
RATES = {"full": torch.float32, "bf16": torch.bfloat16}


def measure(name: str, pairs: int, work: Path, precision: str) -> dict[str, Any]:
    """The row of one size in one precision ("bf16": autocast over float32 weights, against the bf16 matmul rate)."""
    size = SIZES[name]
    job = JOBS.get(name, LARGE if name == "100M" else ours.Job())
    folder = write_folder(work / "model", size, make_prompts(size.vocab, 2 * job.prompts, *PROMPT_TOKENS))
    run = ours.make(folder, job, **({} if precision == "full" else {"precision": precision}))
    batch, lengths = batch_of(run)
    side = partial(update, run, batch, run.record, lengths)
    found = turns({"update": side}, pairs, matmul=Matmul(RATES[precision]))
    head = {"prompts": job.prompts, "group": job.group, "limit": job.limit, "micro_batch": micro(run)}
    described_update = described(found["update"], partial(train_operations, size))
    return head | {"update": described_update, "profile": {"update": operators(side)}}


def batch_of(run: Run) -> tuple[Batch, Lengths]:
    """A credited batch as a step of the run makes it, and its lengths."""
    run.last_rollouts = []
    batch = run.record.credit(run.gather(run.record.collect(run)))
    (part,) = run.record.descent.split(batch)
    return part, ours.lengths_of([rollouts for rollouts, _ in run.last_rollouts])


def update(run: Run, batch: Batch, method: PolicyGradient, lengths: Lengths, two_pass: bool | None = None) -> Lengths:
    """Loss and gradient as in a step's first update, without the optimiser."""
    backward(run.policy, batch, method, micro(run), two_pass=two_pass, fresh=True)
    run.loaded.model.zero_grad(set_to_none=True)
    return lengths


def micro(run: Run) -> int:
    """Rows a pass."""
    return run.record.descent.micro_batch
