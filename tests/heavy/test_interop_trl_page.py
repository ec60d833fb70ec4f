"""The blocks of the page about TRL that need it, and the example, as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.interop.test_trl_page import BOUND, ROOT, runs

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only")


@pytest.mark.parametrize("text", BOUND)
def test_a_block_runs_beside_trl(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs(text, tmp_path)
    written = list(tmp_path.rglob("*.parquet"))
    assert len(written) >= 2, "the completions that TRL logs, or the rollouts that are recorded"


def test_the_example_trains_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "07_inside_trl.py"))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{'step'")]
    assert [line.split(",")[0] for line in told] == ["{'step': 1.0", "{'step': 2.0", "{'step': 3.0"]
    rows = pq.read_table(tmp_path / "runs" / "inside-trl" / "run" / "rollouts" / "step-000003.parquet").to_pylist()
    assert len(rows) == 16 and len({row["advantage"] for row in rows}) > 4, "novelty orders the rows within a vote"
