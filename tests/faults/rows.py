"""The stored rows of docs/reliability.md: one a test, or one a run of a long program."""

from __future__ import annotations

import json
import re
from pathlib import Path

STORED = Path(__file__).resolve().parent.parent.parent / "docs" / "reliability.json"
AREAS = ("kills", "files", "processes", "signals", "numbers", "rewards", "collapse", "input", "time travel")
Row = dict[str, str]


def stored() -> dict[str, Row]:
    """Who made it -> the row."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}


def store(who: str, row: Row) -> None:
    """Write one row, in place of the one of that name."""
    assert row["area"] in AREAS, f"no area '{row['area']}': {AREAS}"
    rows = {**stored(), who: row}
    STORED.write_text(json.dumps(rows, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def tidy(text: str, folder: Path) -> str:
    """One line, without the folders of this machine."""
    text = text.replace(str(folder), "DIR").replace(str(Path.home()), "~")
    text = re.sub(r"(actor_id|pid|namespace|ip): \S+", r"\1: ...", text)  # what Ray says of its own
    return " ".join(re.sub(r"/tmp/[\w.-]+", "/tmp/...", text).split())
