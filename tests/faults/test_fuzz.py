"""What reads a model's words never raises and is never slow: seconds of fuzzing here, ten minutes by `--store`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.faults import fuzz
from tests.faults.texts import LONGEST, POOLS, grown, mutated

RUN = [sys.executable, "-m", "tests.faults.fuzz"]


def test_five_seconds_find_nothing() -> None:
    # By itself: the checks of shapes that tests add would be timed too.
    ended = subprocess.run([*RUN, "--seconds", "5", "--no-math"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 crashes, 0 too slow" in ended.stdout


@pytest.mark.heavy
def test_a_minute_with_math_verify_finds_nothing() -> None:
    ended = subprocess.run([*RUN, "--seconds", "60"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "by math-verify in its workers" in ended.stdout


def test_what_raises_is_found() -> None:
    def fragile(text: str, other: str) -> object:
        return int(text)  # of more than 4,300 digits: ValueError

    report = fuzz.Report()
    report.try_one("fragile", fragile, "7" * 5_000, "")
    report.try_one("fragile", fragile, "7", "")
    assert [what.partition(" at")[0] for what in report.crashes] == ["fragile: ValueError"]
    assert "1 crashes, 0 too slow" in report.told()


def test_what_is_slow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(text: str, other: str) -> object:
        return sum(1 for a in text for b in text if a == b)

    report = fuzz.Report()
    report.try_one("slow", slow, "a" * 1_900, "")
    assert report.slowest[True][1] == "slow" and not report.late
    assert list(report.judge().late) == ["slow, short"]
    calls = iter([0.2, 0.2])
    once = fuzz.Report()
    once.try_one("once", lambda text, other: spun(next(calls, 0.0)), "a", "")
    assert once.suspects and not once.judge().late, "a machine that stood still is no slow call"
    monkeypatch.setattr(fuzz, "HANG", 0.1)
    report.try_one("endless", lambda text, other: [None for _ in iter(int, 1)], "a", "")
    assert any(what.startswith("endless: Late") for what in report.crashes)


def spun(seconds: float) -> None:
    """Work for so long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_texts_are_the_same_for_a_seed_and_reach_every_pool() -> None:
    texts = [grown(Random(seed)) for seed in range(300)]
    assert texts == [grown(Random(seed)) for seed in range(300)]
    assert len(set(texts)) > 290 and max(map(len, texts)) <= LONGEST
    whole = "".join(texts)
    for pool in POOLS:
        assert sum(piece in whole for piece in pool) > len(pool) / 2
    assert {mutated(Random(seed), "abc", "xyz") for seed in range(100)} > {"abcabc"}


def test_the_row_is_stored_only_where_nothing_was_found(tmp_path: Path) -> None:
    row = fuzz.row(fuzz.Report(inputs=3, calls=9), 600)
    assert row["area"] == "input" and row["what"].startswith("10 minutes")
    assert "3 texts in 9 calls" in row["said"] and "0 crashes" in row["said"]
    code = (
        "import sys, pathlib; from tests.faults import fuzz, rows; "
        "rows.STORED = pathlib.Path(sys.argv.pop(1)); raise SystemExit(fuzz.main())"
    )
    stored = tmp_path / "reliability.json"
    args = [sys.executable, "-c", code, str(stored), "--seconds", "0.5", "--no-math", "--store"]
    assert subprocess.run(args, env=dict(os.environ), capture_output=True, check=False).returncode == 0
    assert json.loads(stored.read_text())["fuzz.py"]["area"] == "input"
