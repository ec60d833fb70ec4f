"""Every block of docs/rewards.md runs: files are loaded by the commands beside them, Python is executed."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from rekindle.tokens.rewards import Rewards, load_rewards
from rekindle.tokens.rollouts import Example
from tests.tokens.rewarded import rollouts

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
DATA = rollouts(
    [Example("a", "2+3", "5", {"level": 1, "answer": "5"}), Example("b", "2*3", None, {"level": 2})], ["so 5", "so 7"]
)


def files(folder: Path) -> dict[str, str]:
    """File name -> its code, of the blocks that begin with a name; those that need verifiers are run beside it."""
    found = {}
    for block in PYTHON:
        name = re.match(r"# (\w+\.py)( \(needs verifiers\))?\n", block)
        if name is not None:
            compile(block, name.group(1), "exec")
            (folder / name.group(1)).write_text(block)
            found |= {} if name.group(2) else {name.group(1): block}
    return found


def specs(line: str) -> list[str]:
    words = shlex.split(line)
    return [after for word, after in pairwise(words) if word == "--reward"]


def test_every_command_names_functions_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = files(tmp_path)
    assert list(there) == ["rewards.py", "score.py", "openrlhf_reward.py", "areal_reward.py"]
    monkeypatch.chdir(tmp_path)
    ours = [line for line in COMMANDS if "verifiers:" not in line]
    assert len(ours) == 4 and len(COMMANDS) == 5
    for line in ours:
        got = load_rewards(specs(line))(DATA)
        brief = "brief" in line  # which alone answers the row without an answer
        assert got.success.tolist() == [True, brief], line
    named = {spec.split(":")[-2].rpartition(":")[2] for line in ours for spec in specs(line)}
    assert named == {"rewards.py", "score.py", "openrlhf_reward.py"}


def test_the_functions_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    got = load_rewards(["rewards.py:right", "rewards.py:judged=0.5", "areal_reward.py:reward_fn=2"])
    assert got.parts(DATA) == {
        "rewards.py:right": [1.0, None],
        "rewards.py:judged": [1.0, 1.0],
        "areal_reward.py:reward_fn": [1.0, 0.0],
    }
    brief = load_rewards(["rewards.py:brief"])
    brief.progress.at(5, 10)
    told = brief(DATA)
    assert told.score.tolist() == [1.0, 1.0]
    assert told.metrics["reward/rewards.py:brief/longest"] == (2.0, 1.0)
    assert told.extra["reward/rewards.py:brief/words"] == [2.0, 2.0]
    score = load_rewards(["score.py:compute_score"])(DATA)
    assert score.score.tolist() == [1.0, 0.0] and score.graded.tolist() == [True, False]


def test_python_of_the_page_runs() -> None:
    (block,) = [b for b in PYTHON if b.startswith("from functools")]
    space: dict[str, object] = {}
    exec(compile(block, "docs/rewards.md", "exec"), space)
    given = space["rewards"]
    assert isinstance(given, Rewards)
    assert [reward.name for reward in given.rewards] == ["at_least", "compute_score"]
    bare = rollouts([Example("a", "p", "5")], ["5"])
    assert given(bare).score.tolist() == [1.0]
