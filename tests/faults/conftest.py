"""Faults that are made to happen for real; what each test saw is a row of docs/reliability.md.

`REKINDLE_FAULTS=write pytest tests/faults` stores the rows (`make faults` does so for all); without it a test fails
whose row is not the stored one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

STORED = Path(__file__).resolve().parent.parent.parent / "docs" / "reliability.json"
AREAS = ("kills", "files", "processes", "signals", "numbers", "rewards", "collapse", "input", "time travel")
Fault = Callable[..., None]


@pytest.fixture
def fault(request: pytest.FixtureRequest, tmp_path: Path) -> Fault:
    """fault(area, what, does, said=...): the last line of a test, after all its assertions.

    area: one of AREAS. what: the fault, and how it was injected. does: the outcome that the test has asserted. said:
    what the user reads, or the numbers that were seen; folders of the test are shortened.
    """

    def row(area: str, what: str, does: str, said: str = "") -> None:
        assert area in AREAS, f"no area '{area}': {AREAS}"
        test = request.node.nodeid.replace("\\", "/").removeprefix("tests/faults/")
        made = {"area": area, "what": what, "does": does, "said": tidy(said, tmp_path)}
        rows = stored()
        if os.environ.get("REKINDLE_FAULTS") == "write":
            STORED.write_text(json.dumps({**rows, test: made}, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            return
        there = {key: value for key, value in rows.get(test, {}).items() if key != "said"}
        wanted = {key: value for key, value in made.items() if key != "said"}
        assert there == wanted, f"docs/reliability.json has another row for {test}: run `make faults`"

    return row


def stored() -> dict[str, dict[str, str]]:
    """Test -> its row."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}


def tidy(text: str, folder: Path) -> str:
    """One line, without the folders of this machine."""
    text = text.replace(str(folder), "DIR").replace(str(Path.home()), "~")
    return " ".join(re.sub(r"/tmp/[\w.-]+", "/tmp/...", text).split())
