"""What a run shows goes into a pipe that may be closed: the run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.cuts import ENVIRONMENT, words

LINES = """
import sys
from rekindle.cli.live import PlainLines

view = PlainLines(3)
sys.stdin.readline()
for step in range(3):
    view({"kind": "resume", "step": step})
print("on")
print("the end", file=sys.stderr)
"""
GONE = "nobody reads the output any more"


@pytest.mark.parametrize("joined", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_view_whose_pipe_is_closed_is_turned_off_and_says_so_once(joined: bool) -> None:
    err = subprocess.STDOUT if joined else subprocess.PIPE
    program = [sys.executable, "-c", LINES]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.close()
        process.stdin.write("go\n")
        process.stdin.close()
        said = "" if process.stderr is None else process.stderr.read()
        assert process.wait() == 0, said
    assert joined or (said.count(GONE) == 1 and said.endswith("the end\n") and said.count("\n") == 2), said


def test_a_run_whose_output_nobody_reads_ends_as_any_other(tmp_path: Path) -> None:
    line = words("--out", str(tmp_path / "run"), options={"steps": 2})
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0, said
    assert said.count(GONE) == 1 and (tmp_path / "run" / "final").is_dir()
