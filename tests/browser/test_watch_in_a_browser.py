"""A run that goes on changes its page without a reload, and the reader keeps what was chosen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import Seen

pytestmark = pytest.mark.heavy

MAIN = [sys.executable, "-c", "from rekindle.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def step_of(seen: Seen) -> int:
    found = re.search(r"step (\d+)", seen.text("#about"))
    assert found is not None
    return int(found.group(1))


def test_the_page_follows_a_run(seen: Seen, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Far more steps than are waited for: what the page shows changes because the run goes on.
    command = [*MAIN, "train", "grpo", "--task", "digit_sum", "--steps", "4000", "--out", str(out)]
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    watching = None
    try:
        seen.until(lambda: (out / "rollouts").is_dir() and len(list((out / "rollouts").glob("step-*"))) >= 2, 120)
        watch = [*MAIN, "watch", str(out), "--port", "0"]
        watching = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert watching.stdout is not None
        url = re.search(r"http://\S+", watching.stdout.readline())
        assert url is not None
        seen.open(url.group(0))
        first, marks = step_of(seen), seen.js("return window.same = Math.random()")
        seen.choose("verdict", "wrong")
        path = "return document.querySelector('#entropy .mark-line path').getAttribute('d')"
        before = seen.js(path)
        seen.until(lambda: step_of(seen) >= first + 5, 120)
        assert seen.js("return window.same") == marks, "the page was loaded again"
        assert seen.js(path) != before and seen.text("#news").startswith("Live: step ")
        assert seen.js("return document.querySelector('[name=verdict]').value") == "wrong"
        watching.terminate()
        watching.wait(30)
        seen.until(lambda: "does not answer" in seen.text("#news"), 30)
        assert seen.count("#passk") == 1
    finally:
        for process in (training, watching):
            if process is not None:
                process.kill()
                process.communicate()
