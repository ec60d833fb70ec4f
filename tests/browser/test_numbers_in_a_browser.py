"""What charts draw is in their tables, too: fits, dashed lines, and the stretches of runs that were cut short."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rekindle.report.page.build import document, page
from tests.browser.conftest import Seen
from tests.report.recorded import recording, steps

pytestmark = pytest.mark.heavy

CELLS = (
    "const figure = [...document.querySelectorAll('figure')].find((f) => f.querySelector('h3').textContent.startsWith("
    "arguments[0])); const box = figure.querySelector('details'); box.open = true; return figure;"
)
VOTES = {"vote__entropy": [0.5] * 20, "truth__pass@1": [0.4] * 20}
ROWS = "return [...arguments[0].querySelectorAll('tbody tr')].map((r) => [...r.children].map((c) => c.textContent))"


def numbers(seen: Seen, title: str) -> list[list[str]]:
    """The table that "Numbers" under a chart opens."""
    figure = seen.js(CELLS, title)
    return seen.until(lambda: seen.js(ROWS, figure))


def test_a_fitted_curve_and_the_lines_to_beat_have_their_numbers(seen: Seen, tmp_path: Path) -> None:
    entropy = [1.2 * math.exp(-i / 9) for i in range(20)]
    told = steps(entropy=entropy, success=[0.6 - 0.1 * h for h in entropy], **VOTES)
    start = {"kind": "baseline", "step": 0, "start/maj@16": 0.53, "start/pass@1": 0.31}
    file = tmp_path / "page.html"
    file.write_text(page(document([recording(steps=told, other=[start])])), encoding="utf-8")
    seen.open(file.as_uri())
    assert sum("fit" in row for row in numbers(seen, "R = -a e^H + b")) == 40
    assert sum("fit" in row for row in numbers(seen, "Where entropy goes")) == 60
    beaten = [row for row in numbers(seen, "Right by the truth") if any("of the start" in cell for cell in row)]
    assert [("0.53" in row, "0.31" in row) for row in beaten] == [(True, False), (False, True)]
    assert seen.js("return document.querySelectorAll('#truth .chart .role-mark.mark-rule line').length") == 2
    assert seen.complaints() == []


def test_the_line_of_seeds_of_which_one_was_cut_short_is_two_and_no_leap(seen: Seen, tmp_path: Path) -> None:
    runs = [
        recording(f"a{i}", method="a", seed=i, options={"steps": 1, "seed": i}, steps=steps(entropy=[float(i)] * n))
        for i, n in enumerate((60, 59))
    ]
    file = tmp_path / "page.html"
    file.write_text(page(document(runs)), encoding="utf-8")
    seen.open(file.as_uri())
    drawn = "return [...document.querySelectorAll('#entropy .chart .mark-line path')].map((p) => p.getBBox().height)"
    assert seen.js(drawn) == [0, 0]
    dots = "return document.querySelectorAll('#entropy .chart .mark-symbol.role-mark path').length"
    assert seen.js(dots) == 1, "the last step has no line of its own length"
