"""Write docs/reliability.md from the rows that the tests of faults stored. `--check` only looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
TITLES = {
    "kills": "Kills",
    "files": "Files and folders",
    "processes": "Processes",
    "signals": "Signals and clocks",
    "numbers": "Numbers that are wrong",
    "rewards": "Rewards and labels",
    "collapse": "Collapse",
    "input": "Malformed input",
    "time travel": "Time travel",
}
HEAD = """# Reliability

**What a run keeps.** A checkpoint holds all that decides what follows: weights, optimiser, heads, frozen copies,
replay and other kept tensors, the run's memory (counts, baselines, adaptive coefficients, the place in the data),
and, where it stands between two updates of a step, that step's batch. No generator has a state of its own: every draw
is a function of (seed, step, update, row, position). Files are written beside their place, flushed, renamed, and the
folders flushed too; a manifest has the size and sha256 of each. `--resume` takes the newest checkpoint that is what
its manifest says, names those that it passes over and why, and counts the events that become void.

**Which checkpoints stay**: the last `checkpoint.keep` (2), that of the best `checkpoint.best` (such as `pass@16`;
`checkpoints/best.json` says which), and every `checkpoint.archive` steps.

**Signals.** SIGTERM and SIGINT are heard before an update and after a step: what goes on until then (the rest of a
sampling, its grading, an update, an evaluation) is finished, the run saved, inside the step if need be, and ended with
143 or 130. A scheduler's grace period has to hold the longest of these. A second signal, half a second later or more,
ends the process at once. With ranks all stop at the same update; the launcher passes the signal on.

**Exit codes**: 0 done, 2 input, 3 a guard stopped the run, 4 an engine or a rank died, 130 and 143 stopped and saved.

**What is not promised.** Bit-equal resumption is on the same machine, with the same versions, threads and number of
ranks; a resumption with other versions says so. A vLLM engine need not draw the same tokens again. What a reward
function of the user keeps in its own memory is not saved. A power failure cannot be tried here: the files are
flushed, and whether a disk keeps what it says it wrote is its own affair. Where a file system knows no locks, a note
says so.

Every row below is a fault that a test makes happen for real (`tests/faults`), what Rekindle does then, and what the
user reads. They are written down by what the tests saw (`make faults`); a row that no longer holds fails its test.
"""


def page(rows: dict[str, dict[str, str]]) -> str:
    """The page: a table an area."""
    lines = [HEAD]
    for area, title in TITLES.items():
        some = [(test, row) for test, row in sorted(rows.items()) if row["area"] == area]
        if not some:
            continue
        lines += [f"## {title}", "", "| fault | outcome | what is said | test |", "|---|---|---|---|"]
        lines += [
            f"| {cell(row['what'])} | {cell(row['does'])} | {cell(row['said'])} | `{cell(test)}` |"
            for test, row in some
        ]
        lines += [""]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text that stays inside its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Write the page, or tell whether it is current."""
    rows: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    wanted = page(rows)
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        print("docs/reliability.md is not what docs/reliability.json says: run scripts/reliability.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
