"""Words of a script as the shell and hydra have them: nothing of a value is cut off, and nothing dropped silently."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rekindle.interop.explain.given import Given, read
from rekindle.interop.explain.written import imported


def script(tmp_path: Path, *lines: str) -> Given:
    path = tmp_path / "run.sh"
    path.write_text("\n".join(lines) + "\n")
    return read(str(path))


WORDS = [
    "a.b=run#1",
    "a.b=/data/c#/x.parquet",
    "a.b='run#1' # a note",
    "a.b='run #1'",
    'a.b="say \\"#1\\" now"',
    "a.b='#1'",
    "a.b=x\\ #y",
    "a.b=x # y=z a.b=w",
    "a.b=x #it's",
]


@pytest.mark.parametrize("line", WORDS)
def test_a_value_is_what_the_shell_hands_over(tmp_path: Path, line: str) -> None:
    """bash itself is asked."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}\n"], capture_output=True, text=True, check=True)
    (word,) = done.stdout.splitlines()
    assert script(tmp_path, line).values == {"a.b": word.partition("=")[2]}


def test_a_comment_is_no_word(tmp_path: Path) -> None:
    given = script(tmp_path, "# a.b=1", "main \\", "  c.d=2 \\  # e.f=3", "#g.h='", "i.j=[1,2] k.l='[\"#\"]'")
    assert given.values == {"c.d": 2, "i.j": [1, 2], "k.l": ["#"]}
    assert given.lines == {"c.d": 3, "i.j": 5, "k.l": 5}


def test_a_day_that_there_is_not_is_a_text(tmp_path: Path) -> None:
    assert script(tmp_path, "a.b=2001-99-99").values == {"a.b": "2001-99-99"}


def test_what_hydra_takes_out_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text("algorithm.adv_estimator=grpo \\\n  ~actor_rollout_ref.actor.optim.lr ~/data ~a.b=3\n")
    told = [note for note in imported(str(path), "verl").notes if note.startswith("not understood")]
    assert any("~actor_rollout_ref.actor.optim.lr, line 2: hydra takes the option out" in note for note in told)
    assert any("~a.b=3, line 2" in note for note in told) and not any("data" in note for note in told)
