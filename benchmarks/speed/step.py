"""(a) One whole step of RL: sampling, scoring, one update. Rekindle and TRL in turn in one process."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_prompts, write_folder
from benchmarks.speed.paired import Turn, described, ratio, turns
from benchmarks.speed.work import Lengths, Matmul, step_operations

PROMPT_TOKENS = (16, 48)
# Half the prompts at 60M: both sides do the same work, and the whole of `make bench` stays within half an hour.
JOBS = {"toy": ours.Job(prompts=4, group=4, limit=16), "60M": ours.Job(prompts=8)}
# Rows a backward pass of TRL's that are tried at a size; elsewhere all, as long as more rows gain something.
TRIED = {"toy": (8, 16), "60M": (16, 32, 64)}


def measure(name: str, pairs: int, work: Path, rival: bool) -> dict[str, Any]:
    """The row of one size. rival: whether TRL is installed here; without it only our side is measured."""
    size, job = SIZES[name], JOBS.get(name, ours.Job())
    folder = write_folder(work / "model", size, make_prompts(size.vocab, 4 * job.prompts, *PROMPT_TOKENS))
    run = ours.make(folder, job)
    operations = partial(step_operations, size)
    head = {"prompts": job.prompts, "group": job.group, "limit": job.limit, "lr": job.lr}
    if not rival:
        found = turns({"rekindle": lambda: ours.step(run)}, pairs)
        return head | {"rekindle": described(found["rekindle"], operations)}
    from benchmarks.speed import theirs

    tried = theirs.best_micro_batch(folder, work / "trl", job, PROMPT_TOKENS[1], TRIED.get(name, theirs.MICRO_BATCHES))
    best = min(tried, key=lambda key: tried[key])
    trainer = theirs.make_trainer(folder, work / "trl", job, int(best))
    slow, fast = in_turn(trainer, run, pairs)
    return head | {
        "trl_micro_batch": int(best),
        "trl_seconds_a_row": tried,
        "rekindle": described(fast, operations),
        "trl": described(slow, operations),
        "ratio": ratio(slow, fast),
    }


def in_turn(trainer: Any, run: Any, pairs: int, warm: int = 1) -> tuple[list[Turn], list[Turn]]:
    """(TRL's turns, ours): a step of TRL's loop, a step of ours, and so on; the first pair is dropped."""
    from benchmarks.speed import theirs

    matmul = Matmul()
    slow: list[Turn] = []
    fast: list[Turn] = []
    rate = matmul()

    def work(seconds: float, lengths: Lengths) -> bool:
        nonlocal rate
        slow.append(Turn(seconds, lengths, rate))
        rate = matmul()
        began = time.perf_counter()
        lengths = ours.step(run)
        fast.append(Turn(time.perf_counter() - began, lengths, rate))
        rate = matmul()
        return len(fast) < pairs + warm

    theirs.train_between(trainer, work)
    return slow[warm:], fast[warm:]
