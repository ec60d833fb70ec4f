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

Every row is a fault that a test makes happen for real (`tests/faults`), what Rekindle does then, and what the user
reads. Generated from what the tests saw, by `make faults`; a row that no longer holds fails its test.
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
