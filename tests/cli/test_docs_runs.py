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

from scripts.blocks import blocks, script

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
NUMBER = re.compile(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?")
FORETOLD = ("rekindle: ", "note: ")
"""How a sentence begins that only a run of full length has cause for; tests of the watch and the guards have these."""
VOTES = re.compile(r"(rekindle train (?!evol_rl|ttrl).*) --set rollout\.votes=4")


def shortened(code: str) -> str:
    code = INSTALLS.sub("", code)
    for long, short in LESS.items():
        code = re.sub(long, short, code)
    return VOTES.sub(r"\1", code)


def lost(page: Path, printed: str) -> list[str]:
    """The lines of a page that none of its commands printed: of a plan to the digit, of a run but for numbers."""
    lines = printed.splitlines()
    exact, words = {tidy(line) for line in lines}, {masked(line) for line in lines}
    missing = []
    for block in blocks(page):
        plan = " assumed: " in block.text
        for line in block.text.splitlines() if block.language == "text" and block.mark is None else ():
            there = tidy(line) in exact if plan else masked(line) in words
            missing += [line] if not there and not line.startswith(FORETOLD) else []
    return missing


def tidy(line: str) -> str:
    return " ".join(line.split())


def masked(line: str) -> str:
    return NUMBER.sub("#", tidy(line))


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
    assert lost(page, told.stdout + told.stderr) == []
    if "rekindle report" in code:
        assert list((tmp_path / "work").rglob("*.html"))


def test_the_rule_shortens_and_installs_nothing() -> None:
    code = "git clone X\nrekindle train grpo --steps 60 --group 8\nrekindle train ttrl --steps 5 --prompts 8\n"
    found = shortened(code)
    assert "git" not in found and "60" not in found and "--group 4" in found
    assert found.count("rollout.votes=4") == 1 and "--prompts" not in found


def test_what_a_page_shows_and_nothing_prints_is_lost(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    run, plan, foretold = "step 30/30  entropy 0.2", "fits  in 79.0 GiB, assumed: 33% are left", "note: it fell to 0.1"
    page.write_text("".join(f"```text\n{text}\n```\n" for text in (run, plan, foretold)))
    assert lost(page, "step 2/2 entropy 1e-05\nfits in 79.0 GiB, assumed: 33% are left\n") == []
    assert lost(page, "step 2/2 entropies 0.3\nfits in 79.0 GiB, assumed: 34% are left\n") == [run, plan]
    page.write_text(f"<!-- not run: why -->\n```text\n{run}\n```\n")
    assert lost(page, "") == []
