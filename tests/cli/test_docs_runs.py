"""The first run and the recipes run as their pages say, in order, but shorter.

The shortening rule: numbers of steps, prompts and responses become small (`LESS`), and lines that install (`git`, `cd`,
`make`, `source`, `pip`) are left out: `scripts/first_run.sh` runs these.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.blocks import script

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "first_run.md", *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
LESS = {
    r"--group \d+": "",
    r"--steps \d+": "--steps 2 --group 4 --set rollout.prompts=2 --set rollout.votes=4 --set descent.minibatches=1",
    r"--prompts \d+": "",
    r"evaluate\.every=\d+": "evaluate.every=2",
    r"evaluate\.prompts=\d+": "evaluate.prompts=2",
    r"-n \d+": "-n 8",
}
INSTALLS = re.compile(r"^(git|cd|make|source|pip) .*\n", re.MULTILINE)
VOTES = re.compile(r"(rekindle train (?!evol_rl|ttrl).*) --set rollout\.votes=4")


def shortened(code: str) -> str:
    code = INSTALLS.sub("", code)
    for long, short in LESS.items():
        code = re.sub(long, short, code)
    return VOTES.sub(r"\1", code)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `rekindle` and `python` are those of this tree."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, what in (("rekindle", f"{sys.executable} -m rekindle"), ("python", sys.executable)):
        (folder / name).write_text(f'#!/bin/sh\nexec {what} "$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs(page: Path, path: str, tmp_path: Path) -> None:
    code = shortened(script(page))
    assert "rekindle " in code
    (tmp_path / "work").mkdir()
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"stage() {{ :; }}\n{code}"],
        cwd=tmp_path / "work",
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert told.returncode == 0, f"{page.name}: {told.stdout[-2000:]}\n{told.stderr[-3000:]}"
    if "rekindle report" in code:
        assert list((tmp_path / "work").rglob("*.html"))


def test_the_rule_shortens_and_installs_nothing() -> None:
    code = "git clone X\nrekindle train grpo --steps 60 --group 8\nrekindle train ttrl --steps 5 --prompts 8\n"
    found = shortened(code)
    assert "git" not in found and "60" not in found and "--group 4" in found
    assert found.count("rollout.votes=4") == 1 and "--prompts" not in found
