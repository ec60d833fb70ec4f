"""Faults that are made to happen for real; what each test saw is a row of docs/reliability.md.

`REKINDLE_FAULTS=write pytest tests/faults` stores the rows (`make faults` does so for all); without it a test fails
whose row is not the stored one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.rows import AREAS, store, stored, tidy

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
        if os.environ.get("REKINDLE_FAULTS") == "write":
            store(test, made)
            return
        there = {key: value for key, value in stored().get(test, {}).items() if key != "said"}
        wanted = {key: value for key, value in made.items() if key != "said"}
        assert there == wanted, f"docs/reliability.json has another row for {test}: run `make faults`"

    return row
