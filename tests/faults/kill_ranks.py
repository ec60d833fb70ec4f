"""Kill runs of two ranks, one of the ranks or the process that watches them, and compare as `kill.py` does.

python -m tests.faults.kill_ranks --kills 12 --store
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.faults.rows import store
from tests.faults.same import differences

COMMAND = [
    *(sys.executable, "-m", "rekindle", "train", "remix", "--task", "digit_sum", "--steps", "5", "--ranks", "2"),
    *(word for text in (
        "rollout.prompts=4", "rollout.group=4", "rollout.block=2", "rollout.max_tokens=24", "descent.lr=0.001",
        "descent.micro_batch=8", "checkpoint.every=1", "evaluate.every=2", "evaluate.prompts=4", "evaluate.samples=4",
    ) for word in ("--set", text)),
]  # fmt: skip
WHO = ("the watching process", "rank 0", "rank 1")
CODES = {0: "done", 4: "a rank was killed", -signal.SIGKILL: "killed"}
LONGEST = 180.0


def started(out: Path) -> subprocess.Popen[bytes]:
    """The command, to begin or to go on."""
    more = ["--resume"] if out.exists() else []
    null = subprocess.DEVNULL
    return subprocess.Popen([*COMMAND, "--out", str(out), *more], stdout=null, stderr=subprocess.PIPE)


def ranks_of(pid: int) -> list[int]:
    """The processes of the ranks, in their order."""
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def over(process: subprocess.Popen[bytes]) -> int:
    """The exit code, when it has ended; anything that a kill does not explain is a failure."""
    said = process.communicate(timeout=LONGEST)[1].decode()
    if process.returncode not in CODES:
        raise SystemExit(f"ended with code {process.returncode}: {said}")
    return process.returncode


def killed(out: Path, rng: random.Random) -> str | None:
    """Kill one process at a random instant from when the ranks are there; who it was, None if the run was over."""
    process, began = started(out), len(events(out))
    last = time.monotonic() + LONGEST
    while len(events(out)) == began and process.poll() is None and time.monotonic() < last:
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 2.0))
    crew = [process.pid, *ranks_of(process.pid)]
    place = rng.randrange(len(crew))
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.kill(crew[place], signal.SIGKILL)
    return None if over(process) == 0 else WHO[place]


def events(out: Path) -> bytes:
    """The run's events so far."""
    file = out / "events.jsonl"
    return file.read_bytes() if file.is_file() else b""


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true")
    asked = parser.parse_args()
    rng, seen, runs = random.Random(asked.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="rekindle-kill-") as name:
        whole = Path(name, "whole")
        over(started(whole))
        while seen.total() < asked.kills:
            out, runs = Path(name, f"run-{runs}"), runs + 1
            for _ in range(min(4, asked.kills - seen.total())):
                who = killed(out, rng)
                seen.update([] if who is None else [who])
            over(started(out))
            wrong = differences(whole, out)
            if wrong:
                raise SystemExit(f"run {runs}, kills {dict(seen)}: {'; '.join(wrong)}")
            print(f"run {runs} equal, {seen.total()} kills so far", flush=True)
    told = ", ".join(f"{n} of {who}" for who, n in seen.most_common())
    print(f"{seen.total()} kills ({told}), {runs} runs, all equal")
    if asked.store:
        does = "every resumed run ends with the weights, events and rollouts of the uninterrupted one"
        what = "SIGKILL of one process of a ReMix run of two ranks, at random instants"
        store("kill_ranks.py", {"area": "kills", "what": what, "does": does, "said": f"{seen.total()} kills ({told})"})


if __name__ == "__main__":
    main()
