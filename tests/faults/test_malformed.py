"""Malformed input ends in one sentence that names what is damaged and says what to do: never a traceback, never a hang.

A few of each kind run always; all of them, more than a thousand distinct ones, are heavy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import malformed
from tests.faults.conftest import Fault
from tests.faults.kinds import KINDS
from tests.faults.malformed import Case, called, wrong

Found = dict[str, dict[str, Any]]


def became(*args: str) -> Found:
    """What became of the cases: kind -> counts and defects. In a process without the checks of shapes."""
    command = [sys.executable, "-m", "tests.faults.kinds", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4_000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def few() -> Found:
    """A few cases of each kind."""
    return became("--few")


@pytest.fixture(scope="module")
def every() -> Found:
    """All cases."""
    return became()


def test_what_is_not_damaged_is_taken(few: Found) -> None:
    found = few["undamaged"]
    assert not found["defects"] and found["refused"] == 0
    assert found["valid"] == 13, "models, parts, adapters, runs, sets and rows"


@pytest.mark.parametrize("name", KINDS)
def test_a_few_of_each_kind(few: Found, name: str) -> None:
    assert not few[name]["defects"], "\n".join(few[name]["defects"])
    assert few[name]["refused"] >= 2


@pytest.mark.heavy
@pytest.mark.parametrize("name", KINDS)
def test_all_of_each_kind(every: Found, fault: Fault, name: str) -> None:
    kind, found = KINDS[name], every[name]
    assert not found["defects"], "\n".join(found["defects"])
    assert found["refused"] >= kind.least
    fault(
        "input",
        f"at least {kind.least} distinct malformed {kind.what}, by hypothesis (bytes, keys, values) and by hand",
        "each ends with exit code 2 and one sentence that names the file, the key or the row, and the remedy",
        said=f"{found['refused']} refused, in {found['sentences']} kinds of sentences; {found['valid']} were valid",
    )


@pytest.mark.heavy
def test_a_thousand_in_all(every: Found, fault: Fault) -> None:
    refused = sum(found["refused"] for found in every.values())
    assert refused >= 1_000
    slowest = max(found["slowest"] for found in every.values())
    fault(
        "input",
        "more than 1,000 distinct malformed inputs of all kinds",
        "no traceback, no hang, no second line",
        said=f"{refused} inputs, the slowest in {slowest:.1f} s",
    )


@pytest.mark.parametrize(
    ("err", "code", "fault"),
    [
        ("Traceback (most recent call last):\nKeyError: 'x'\n", 1, "ended with 1"),
        ("rekindle: rows.jsonl is bad: fix it\nrekindle: and more\n", 2, "2 lines"),
        ("rekindle: the file is bad: fix it\n", 2, "names none"),
        ("rekindle: rows.jsonl is bad\n", 2, "what to do"),
        ("", 2, "1 lines"),
        ("", -1, "ended with -1"),
    ],
)
def test_what_a_defect_is(err: str, code: int, fault: str) -> None:
    case = Case("x", (), ("rows.jsonl",))
    assert fault in str(wrong(case, code, err))
    assert wrong(case, 2, "rekindle: rows.jsonl, line 2: no JSON: fix the line\n") is None


def test_a_command_that_waits_forever_is_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(malformed, "DEADLINE", 0.2)
    code, _ = called(lambda: len((tmp_path / "pipe").read_bytes()))
    assert code == -1
