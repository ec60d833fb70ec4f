"""`rekindle prove`: what it prints and stores, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.errors import InputError
from rekindle.prove import results
from rekindle.prove.runner import prove

METHOD = """
from dataclasses import replace
from rekindle.core.method import Effect
from rekindle.methods import grpo
CARD = replace(grpo.CARD, parent={parent!r}, effects=tuple([{effects}]))
def method():
    return grpo.method()
"""
LEARNS = """Effect(claim="learns", bed="spread", metric="reward", against="", bed_options={"steps": 6, "lr": 0.3})"""


def made(folder: Path, effects: str, parent: str | None = None) -> str:
    path = folder / "mine.py"
    path.write_text(METHOD.format(parent=parent, effects=effects), encoding="utf-8")
    return f"{path}:method"


def run(*arguments: str) -> int:
    return run_safely(app, list(arguments))


def test_the_table_holds_claim_numbers_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prove", made(tmp_path, LEARNS), "--seeds", "3", "--jobs", "1") == 0
    out = capsys.readouterr().out
    assert "3 paired seeds" in out
    line = out.splitlines()[2]
    assert line.startswith("shown") and "untrained" in line and line.endswith("learns")


def test_json_holds_a_number_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = made(tmp_path, LEARNS)
    assert run("prove", name, "--seeds", "3", "--jobs", "1", "--json") == 0
    row = json.loads(capsys.readouterr().out)[name][0]
    assert row["theirs"] == [0.5, 0.5, 0.5] and min(row["ours"]) > 0.5
    assert (row["verdict"], row["seeds"], row["against"]) == ("shown", [0, 1, 2], "")


def test_a_card_without_effects_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prove", made(tmp_path, "")) == 0
    assert "claims nothing" in capsys.readouterr().out


def test_storing_replaces_the_rows_of_that_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "effects.json"
    name = made(tmp_path, LEARNS)
    rows = prove(name, seeds=2, jobs=1)
    results.store(name, rows, path)
    results.store(name, rows, path)
    assert results.load(path) == {name: rows}


def test_worker_processes_give_the_numbers_of_this_one(tmp_path: Path) -> None:
    name = made(tmp_path, LEARNS)
    one, two = prove(name, seeds=2, jobs=1)[0], prove(name, seeds=2, jobs=2)[0]
    assert (one.ours, one.theirs) == (two.ours, two.theirs)


def test_equal_arms_are_run_once(tmp_path: Path) -> None:
    name = made(tmp_path, LEARNS + ", " + LEARNS.replace('"reward"', '"entropy", more=False'))
    counts: list[tuple[int, int]] = []
    rows = prove(name, seeds=2, jobs=1, heard=lambda done, total: counts.append((done, total)))
    assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row.metric for row in rows] == ["reward", "entropy"]


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        ('Effect(claim="c", bed="digit", metric="reward", against="")', "unknown bed 'digit': there are digits"),
        ('Effect(claim="c", bed="spread", metric="pass", against="")', "there are reward, accuracy"),
        ('Effect(claim="c", bed="digit_sum", metric="reward", against="")', "there are pass@1"),
        ('Effect(claim="c", bed="spread", metric="reward")', "must name whom it is against"),
        ('Effect(claim="c", bed="spread", metric="reward", against="", bed_options={"x": 1})', "unknown option"),
        ('Effect(claim="c", bed="spread", metric="reward", against="", options={"x": 1})', "unknown option 'x'"),
        ('Effect(claim="c", bed="spread", metric="train/x", against="", bed_options={"steps": 1})', "train/grad_norm"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(tmp_path: Path, effect: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prove(made(tmp_path, effect), seeds=2, jobs=1)


def test_too_few_and_too_many_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seeds in ("1", "11"):
        assert run("prove", made(tmp_path, LEARNS), "--seeds", seeds) == 2
        assert "2 to 10 paired seeds" in capsys.readouterr().err


def test_an_unknown_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prove", "kl_cof") == 2
    assert "kl_cov" in capsys.readouterr().err
