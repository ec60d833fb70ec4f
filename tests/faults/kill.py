"""Kill runs at random instants, resume them, and compare what they end with to the uninterrupted run.

python -m tests.faults.kill --kills 120 --store     the full count, into docs/reliability.json
python -m tests.faults.kill --kills 6 --only grpo   a short one

The processes are forked from this one, which has imported everything: real ones, killed by a real SIGKILL, without
seconds of start-up each. A page of shared memory says what a process was doing when it was killed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rekindle.api import train
from rekindle.errors import Stopped
from rekindle.train import evaluate, loop, start, taking
from rekindle.train.run import Run
from tests.faults.rows import store
from tests.faults.same import differences

PHASES = ("starting", "sampling", "scoring", "update", "later update of a step", "checkpoint", "evaluation", "between")
LONGEST = 120.0
"""Seconds after which a process counts as hanging."""

SMALL: Mapping[str, Any] = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.votes": 4,
    "rollout.max_tokens": 24,
    "descent.lr": 1e-3,
    "checkpoint.every": 1,
    "evaluate.every": 2,
    "evaluate.prompts": 4,
    "evaluate.samples": 4,
    "checkpoint.best": "pass@4",
}
WINDOW = {"descent.minibatches": 2, "descent.epochs": 2}


@dataclass(frozen=True)
class Scenario:
    """A run that is killed again and again. options: beside SMALL."""

    what: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 6

    def go(self, out: Path, resume: bool) -> None:
        """Take the run to its end."""
        options = {**SMALL, **self.options}
        train(self.method, task="digit_sum", steps=self.steps, out=out, options=options, resume=resume)


SCENARIOS: Mapping[str, Scenario] = {
    "grpo": Scenario("GRPO, four updates a rollout", "grpo", WINDOW),
    "remix": Scenario("ReMix, with its replay and a later stage", "remix", {"checkpoint.archive": 3}),
    "evol_rl": Scenario("EVOL-RL, no labels, a checkpoint every second step", "evol_rl", {"checkpoint.every": 2}),
    "ppo_clip": Scenario("PPO with its value head", "ppo_clip", WINDOW),
    "greso": Scenario("GRESO, whose memory picks the prompts", "greso", {}),
}


class Doing:
    """What a process is doing, told to the one that kills it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def says(self, phase: str) -> int:
        """Note the phase; gives the one before, for `back`."""
        before = self._page[0]
        self._page[0] = PHASES.index(phase)
        return before

    def back(self, before: int) -> None:
        """The phase that `says` gave."""
        self._page[0] = before

    @property
    def now(self) -> str:
        """The phase."""
        return PHASES[self._page[0]]

    def inside(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, noted while it goes on."""

        def told(*arguments: Any, **named: Any) -> Any:
            later = phase == "update" and len(arguments) > 3 and arguments[3] > 0
            before = self.says("later update of a step" if later else phase)
            try:
                return work(*arguments, **named)
            finally:
                self.back(before)

        return told


def watched(doing: Doing) -> None:
    """Have this process say what it does."""
    Run._draw = doing.inside("sampling", Run._draw)
    Run.score = doing.inside("scoring", Run.score)
    Run.descend = doing.inside("update", Run.descend)
    taking.save_checkpoint = doing.inside("checkpoint", taking.save_checkpoint)
    loop.evaluate = doing.inside("evaluation", evaluate.evaluate)
    start.train = doing.inside("between", start.train)
    start.finish = doing.inside("between", start.finish)


def child(scenario: Scenario, out: Path, doing: Doing) -> int:
    """Fork a process that takes the run on; its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    code = 1
    try:
        watched(doing)
        doing.says("starting")
        scenario.go(out, resume=out.exists())
        code = 0
    except Stopped:
        code = 143
    finally:
        sys.stderr.flush()
        os._exit(code)
    return 0


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process within so many seconds, negative for a signal; None while it runs."""
    last = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > last:
            return None
        time.sleep(min(0.0005, seconds))


def killed(scenario: Scenario, out: Path, doing: Doing, rng: random.Random) -> str | None:
    """Start or resume, kill at a random instant; what it was doing then, None where it had ended by itself.

    The instant: a while after it was first seen in a phase drawn by lot. Every fourth time SIGTERM comes first, so that
    the kill may fall into the saving of a step that is not over.
    """
    pid, wanted = child(scenario, out, doing), rng.choice((*PHASES, *PHASES[1:]))
    last = time.monotonic() + rng.uniform(0.2, 3.0)
    while doing.now != wanted and time.monotonic() < last:
        if (code := ended(pid, 0.0)) is not None:
            return over(code)
    polite = rng.random() < 0.25
    if (code := ended(pid, rng.uniform(0.0, 0.15))) is not None:
        return over(code)
    if polite:
        os.kill(pid, signal.SIGTERM)
        if (code := ended(pid, rng.uniform(0.0, 0.05))) is not None:
            return over(code)
    os.kill(pid, signal.SIGKILL)
    code = ended(pid, LONGEST)
    return doing.now if code == -signal.SIGKILL else over(code)


def over(code: int | None) -> None:
    """A process that ended by itself: done, or saved after SIGTERM; anything else is a failure."""
    if code not in (0, 143, -signal.SIGTERM):  # the last: a SIGTERM before the run had begun
        raise SystemExit(f"a run ended with code {code}, see above")


def tried(name: str, kills: int, rng: random.Random, folder: Path, most: int = 10) -> Counter[str]:
    """Kill runs of a scenario until there were `kills`, at most `most` a run; every one must end as the whole run."""
    scenario, doing, seen = SCENARIOS[name], Doing(), Counter[str]()
    whole, number = folder / f"{name}-whole", 0
    over(ended(child(scenario, whole, doing), LONGEST))
    while seen.total() < kills:
        out, number = folder / f"{name}-{number}", number + 1
        for _ in range(min(most, kills - seen.total())):
            phase = killed(scenario, out, doing, rng)
            seen.update([] if phase is None else [phase])
        over(ended(child(scenario, out, doing), LONGEST))  # it may have been saved by SIGTERM, and goes on
        wrong = differences(whole, out)
        if wrong:
            raise SystemExit(f"{name}, run {number}, kills {dict(seen)}: {'; '.join(wrong)}; see {out}")
        print(f"{name}: run {number} equal, {seen.total()} kills so far", flush=True)
    seen["runs"] = number
    return seen


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    parser.add_argument("--store", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = asked.only or list(SCENARIOS)
    with tempfile.TemporaryDirectory(prefix="rekindle-kill-") as folder:
        for i, name in enumerate(names):
            share = asked.kills // len(names) + (i < asked.kills % len(names))
            seen = tried(name, share, random.Random(f"{asked.seed}/{name}"), Path(folder))
            runs, told = seen.pop("runs"), ", ".join(f"{n} in {phase}" for phase, n in seen.most_common())
            print(f"{name}: {seen.total()} kills ({told}), {runs} runs, all equal", flush=True)
            if asked.store:
                row = {
                    "area": "kills",
                    "what": f"SIGKILL at random instants, every fourth behind a SIGTERM: {SCENARIOS[name].what}",
                    "does": "every resumed run ends with the weights, events and rollouts of the uninterrupted one",
                    "said": f"{seen.total()} kills ({told}) in {runs} runs",
                }
                store(f"kill.py::{name}", row)


if __name__ == "__main__":
    main()
