"""What the panel of the clip asks for, and what it does not: nothing can be recorded where nothing is clipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.report.page.clipping import RECORD, RECORD_RATIOS, UNCLIPPED
from rekindle.report.recording import read_run
from tests.report.recorded import OPTIONS, panel, recording, row, steps, table, titles

SHARES = {"clip_low": [0.1, 0.1], "clip_high": [0.0, 0.1]}


def test_an_objective_without_bounds_of_tokens_is_told_and_nothing_is_asked_for() -> None:
    free = recording(steps=steps(**SHARES), tables={1: table(row(), bounds=None)})
    assert panel([free], "clipping")["missing"] == [UNCLIPPED]
    assert panel([recording(steps=steps(entropy=[1.0]), tables={1: table(row(), bounds=None)})], "clipping")[
        "missing"
    ] == [UNCLIPPED]


def test_where_nothing_was_recorded_it_is_asked_for() -> None:
    bare = recording(steps=steps(entropy=[1.0]), tables={1: table(row(advantage=...), bounds=None)})
    assert panel([bare], "clipping")["missing"] == [RECORD, RECORD_RATIOS]
    shares = recording(steps=steps(**SHARES), tables={1: table(row(advantage=...), bounds=None)})
    assert panel([shares], "clipping")["missing"] == [RECORD_RATIOS]
    assert panel([recording(tables={1: table(row())})], "clipping")["missing"] == [RECORD]
    assert panel([recording(steps=steps(**SHARES), tables={1: table(row())})], "clipping")["missing"] == []


@pytest.mark.parametrize(("level", "missing"), [("sequence", [UNCLIPPED]), ("token", [])])
def test_a_run_that_clips_whole_responses_and_one_that_clips_tokens(
    tmp_path: Path, level: str, missing: list[str]
) -> None:
    options = OPTIONS | {"objective.level": level, "evaluate.baseline": False, "evaluate.every": 0}
    run = read_run(train("grpo", task="digit_sum", steps=2, out=tmp_path / "run", options=options))
    found = panel([run], "clipping")
    assert found["missing"] == missing and "Tokens that are clipped" in titles(found)
    assert ("Advantage on clipped tokens" in titles(found)) == (level == "token")
