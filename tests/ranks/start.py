"""Starting real processes as ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rekindle.train.launch import environment


def start(count: int, *arguments: str, **more: str) -> list[subprocess.Popen[str]]:
    """`python ARGUMENTS` in `count` processes that know each other; `more` goes into their environment."""
    meeting = Path(tempfile.mkdtemp(prefix="rekindle-?%20#-")) / "meeting"  # a name that no URL holds
    shared = environment(count, meeting) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()} | more
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=shared | {"RANK": str(index), "LOCAL_RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def ended(crew: list[subprocess.Popen[str]], seconds: float = 600) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; those that are late are killed."""
    try:
        said = [rank.communicate(timeout=seconds) for rank in crew]
    finally:
        for rank in crew:
            rank.kill()
    return [(rank.returncode, *one) for rank, one in zip(crew, said, strict=True)]
