"""`rekindle serve` for real: a run over it, its death by SIGKILL in mid-run, and the rest after a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.heavy
COMMAND = [sys.executable, "-m", "rekindle"]
ROOT = Path(__file__).parents[2]
SECONDS = 900


@contextmanager
def serving(folder: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address; it is killed at the end."""
    log = folder / f"{name}.log"
    with log.open("w") as out:
        child = subprocess.Popen(
            [*COMMAND, "serve", "--task", "digit_sum", "--port", "0"], cwd=ROOT, stdout=out, stderr=out, text=True
        )
    try:
        yield child, address(child, log)
    finally:
        child.kill()
        child.wait()


def address(child: subprocess.Popen[str], log: Path) -> str:
    for _ in range(SECONDS * 10):
        said = [line for line in log.read_text().splitlines() if "rekindle: serving" in line]
        if said:
            return next(word for word in said[0].split() if word.startswith("http://"))
        assert child.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no server after {SECONDS} s: {log.read_text()}")


def training(out: Path, url: str, *more: str) -> subprocess.Popen[str]:
    asked = ["train", "evol_rl", "--task", "digit_sum", "--sampler", "vllm", "--steps", "8", "--out", str(out)]
    asked += ["--set", f"vllm.url={url}", "--set", "evaluate.baseline=false", "--prompts", "4", "--group", "8"]
    return subprocess.Popen(
        [*COMMAND, *asked, *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def steps(out: Path) -> list[dict[str, float]]:
    file = out / "events.jsonl"
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []  # the last may be half written
    return [event for event in map(json.loads, lines) if event["kind"] == "step"]


def test_killed_in_mid_run_and_resumed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with serving(tmp_path, "first") as (server, url):
        run = training(whole, url)
        _, said = run.communicate(timeout=SECONDS)
        assert run.returncode == 0, said
        run = training(cut, url)
        while len(steps(cut)) < 3:
            assert run.poll() is None, run.communicate()
            time.sleep(0.02)
        os.kill(server.pid, signal.SIGKILL)
        _, said = run.communicate(timeout=SECONDS)
    done = len(steps(cut))
    assert run.returncode == 4 and 3 <= done < 8
    last = said.strip().splitlines()[-1]
    assert (
        last.startswith("rekindle: the vLLM server at http://127.0.0.1:") and "is gone" in last and "--resume" in last
    )
    assert "Traceback" not in said
    again = training(cut, url, "--resume")
    _, said = again.communicate(timeout=SECONDS)
    assert again.returncode == 2 and "no vLLM server of rekindle answers" in said
    with serving(tmp_path, "second") as (_, url):
        again = training(cut, url, "--resume")
        _, said = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, said
    assert [event["step"] for event in steps(cut)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(event["sampler/gap"] < 1e-5 for event in steps(cut))
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (whole, cut))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
