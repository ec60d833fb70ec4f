"""A sampler in a process of its own: prompts go in and lengths come out through a pipe, so that only one side works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.worker import THREADS

VLLM = ("vllm eager", "vllm compiled")
CONTINUOUS = "generate, continuous batching"
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{THREADS - 1}",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": str(THREADS),
    "PYTHONPATH": str(ROOT),
}


class Dead(RuntimeError):
    """The engine did not start or has gone; the message is the last line that it said."""


class Engine:
    """One of the samplers of `engine_side`, by name. It works only while it is asked."""

    def __init__(self, name: str, python: str, folder: Path, log: Path) -> None:
        """Starts it and waits until it is ready; `Dead` where it is not."""
        self.log = log
        self._said = log.open("w")
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "benchmarks.speed.engine_side", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=ROOT,
            env=os.environ | SETTINGS,
            text=True,
        )
        self._answer()

    def sample(self, prompts: list[list[int]], n: int, limit: int) -> list[list[int]]:
        """The lengths of `n` responses to each prompt."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "n": n, "limit": limit}) + "\n")
        self._process.stdin.flush()
        return self._answer()["lengths"]

    def close(self) -> None:
        """Ends it by closing its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._said.close()

    def _answer(self) -> dict[str, list[list[int]]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(timeout=20)
            said = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()]
            raise Dead(f"ended with code {code}: {said[-1][:200] if said else 'no word'}")
        return json.loads(line)
