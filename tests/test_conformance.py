"""The conformance page follows from the stored rows, and every row is equal within its tolerance or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.judge import page

ROWS: dict[str, Any] = page.load()["rows"]
OTHERS = {"cmaes", "Rekindle's own"}
"""A library, and methods of ours that others reduce to."""
PARTS = {"advantage", "loss", "gradient"}


def test_the_page_follows_from_the_rows() -> None:
    assert page.page(page.load()) == page.PAGE.read_text(encoding="utf-8"), "run `make judge`"


def test_enough_rows_of_either_rival() -> None:
    assert len(ROWS) >= 25
    assert {row["rival"] for row in ROWS.values()} == {"verl", "TRL", *OTHERS}
    assert sum(row["verdict"] == "equal" for row in ROWS.values()) >= len(ROWS) / 2
    assert page.load()["rivals"] == ["verl 0.9.1", "TRL 1.16.0"] and page.load()["seeds"] >= 3


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_equal_or_says_why_not(name: str) -> None:
    row = ROWS[name]
    worst = max(row["difference"].values())
    assert row["difference"].keys() <= PARTS and row["difference"].keys() == row["largest"].keys()
    assert row["verdict"] == ("equal" if worst <= row["tolerance"] else "differs")
    assert row["reason"] or (row["verdict"] == "equal" and row["tolerance"] <= 1e-10)
    # A false advantage of nothing is the one number that may be small.
    assert max(row["largest"].values()) > 1e-2, "both sides say 0: the row proves nothing"
    assert row["flags"] and row["setting"] and row["kinds"]


def test_a_looser_tolerance_is_rounding() -> None:
    loose = {name: row["tolerance"] for name, row in ROWS.items() if row["tolerance"] > 1e-10}
    assert max(loose.values()) <= 1e-6 and len(loose) <= len(ROWS) / 5
    assert all(max(ROWS[name]["largest"].values()) > 1e4 * tolerance for name, tolerance in loose.items())


def test_no_path_of_a_machine_in_the_page() -> None:
    assert str(Path.home()) not in page.PAGE.read_text(encoding="utf-8")
