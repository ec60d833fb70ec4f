"""The page about verl: its blocks run, some of them beside real verl; its command line is what `register` says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from rekindle import methods
from rekindle.core.method import PolicyGradient
from rekindle.interop.verl.managers import PATIENCE
from rekindle.interop.verl.names import OURS
from rekindle.interop.verl.shares import ACTOR, ALGORITHM, actor_options, algorithm_options

PAGE = (Path(__file__).parents[2] / "docs" / "interop_verl.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- needs: verl -->\n)?```(python|bash)\n(.*?)```", PAGE, flags=re.DOTALL)
FREE = [text for needs, kind, text in BLOCKS if kind == "python" and not needs]
BOUND = [text for needs, kind, text in BLOCKS if kind == "python" and needs]


@pytest.mark.parametrize("text", FREE)
def test_a_block_runs(text: str) -> None:
    exec(compile(text, "interop_verl.md", "exec"), {})


@pytest.mark.parametrize("text", BOUND)
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_a_block_runs_beside_verl(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("verl", reason="verl is in the environment of `make judge` only: its blocks NOT CHECKED here")
    exec(compile(text, "interop_verl.md", "exec"), {})
    told = capsys.readouterr().out
    for line in re.findall(r"^ *# (rekindle_.*): \.\.\.$", text, flags=re.MULTILINE):
        assert line in told
    assert told.strip()


def test_there_are_blocks_of_both_kinds() -> None:
    assert len(FREE) == 2 and len(BOUND) == 2


def test_the_command_line_is_what_the_method_wants() -> None:
    (command,) = [text for _, kind, text in BLOCKS if kind == "bash"]
    given = dict(word.split("=", 1) for word in shlex.split(command.replace("\\\n", " ")) if "=" in word)
    method = methods.load("evol_rl").method()
    assert isinstance(method, PolicyGradient)
    wanted = {f"{ACTOR}.{path}": value for path, value in actor_options(method).items()}
    wanted |= {f"{ALGORITHM}.{path}": value for path, value in algorithm_options(method).items()}
    for path, value in wanted.items():
        assert given[path] == (str(value).lower() if isinstance(value, bool) else str(value)), path
    place = given["reward.reward_manager.module.path"].removeprefix("pkg://")
    assert importlib.util.find_spec(place) is not None
    assert hasattr(importlib.import_module(place), given["reward.reward_manager.name"])


def test_the_numbers_and_names_of_the_page() -> None:
    assert f"{PATIENCE:g} unless said" in PAGE
    for theirs, here in OURS.items():
        assert f"`{theirs}`" in PAGE and f"`{here}`" in PAGE
