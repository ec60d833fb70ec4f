"""Programs that nothing cuts off are refused by every command that would run them, unless one asks for it, loudly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import train
from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.errors import InputError
from rekindle.tokens.grading.barriers import BARRIERS
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.grading.pool import Outcome
from rekindle.train.runfile import read

SMALL = {"rollout.prompts": 1, "rollout.group": 2, "rollout.max_tokens": 4, "descent.minibatches": 1}
SMALL |= {"evaluate.baseline": False, "grading.by": "code", "grading.workers": 1}


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"prompt": f"write f {i}", "answer": json.dumps(["assert f(1) == 2"])} for i in range(4)]
    place = tmp_path / "code.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


def lacks(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As on a machine where these barriers are not to be had."""
    told = {**dict.fromkeys(BARRIERS, True), **dict.fromkeys(names, False), "landlock": False}
    real = Grader._map

    def asked(self: Grader, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Outcome]:
        return [Outcome(told, "ok")] * len(calls) if function == "shut_off" else real(self, function, calls)

    monkeypatch.setattr(Grader, "_map", asked)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("files", "the files of the user: allow mounts"),
        ("net", "the network: allow unshare"),
        ("pid", "other processes"),
    ],
)
def test_every_command_refuses_in_one_sentence(
    name: str, what: str, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lacks(monkeypatch, name)
    commands = {
        "train": ["train", "grpo", "--data", data, "--grade", "code", "--out", str(tmp_path / "run")],
        "eval": ["eval", "embedded", "--data", data, "--grade", "code", "-n", "1", "--max-tokens", "4"],
        "check": ["data", "check", data, "--grade", "code"],
    }
    for command, words in commands.items():
        assert run_safely(app, words) == 2, command
        told = capsys.readouterr()
        said = " ".join((told.out + told.err).split())
        assert f"grading.by=code is refused: here a program of the model would not be cut off from {what}" in said
        assert "run programs elsewhere (grading.sandbox)" in said
        assert ("set grading.unsafe_sandbox=true (--unsafe-sandbox)" in said) == (name != "pid"), command
    assert not (tmp_path / "run").exists()


def test_whoever_asks_for_it_is_told_loudly(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacks(monkeypatch, "files", "net")
    heard: list[dict[str, Any]] = []
    options = {**SMALL, "grading.unsafe_sandbox": True}
    folder = train("grpo", data=data, steps=1, out=tmp_path / "run", options=options, heard=heard.append)
    notes = [record["text"] for record in heard if record["kind"] == "note"]
    wanted = "PROGRAMS OF THE MODEL RUN UNSAFELY (grading.unsafe_sandbox): here a program of the model would not be cut"
    assert sum(note.startswith(wanted) and "files of the user and the network" in note for note in notes) == 1
    assert read(folder / "run.toml")["grading"]["unsafe_sandbox"] is True
    lacks(monkeypatch, "pid")
    with pytest.raises(InputError, match="other processes"):
        train("grpo", data=data, steps=1, out=tmp_path / "other", options=options)


def test_eval_and_check_take_the_flag_too(
    data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacks(monkeypatch, "files")
    words = ["eval", "embedded", "--data", data, "--grade", "code", "-n", "1", "--max-tokens", "4", "--unsafe-sandbox"]
    assert run_safely(app, words) == 0 and "MAY RUN UNSAFELY" in capsys.readouterr().err
    assert run_safely(app, ["data", "check", data, "--grade", "code", "--unsafe-sandbox"]) == 0


def test_check_takes_the_sandbox_that_its_refusal_advises(
    data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacks(monkeypatch, "files")
    (tmp_path / "mine.py").write_text("def run(source, call, stdin, seconds): ...\n")
    words = ["data", "check", data, "--grade", "code", "--sandbox"]
    assert run_safely(app, [*words, f"{tmp_path}/mine.py:run"]) == 0
    capsys.readouterr()
    assert run_safely(app, [*words, f"{tmp_path}/mine.py:rum"]) == 2 and "no function 'rum'" in capsys.readouterr().out
    assert run_safely(app, ["data", "check", data, "--grade", "exact", "--sandbox", f"{tmp_path}/mine.py:run"]) == 2
    assert "are for programs, not for 'exact'" in capsys.readouterr().out


def test_where_nothing_is_missing_nothing_is_said(data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lacks(monkeypatch)
    heard: list[dict[str, Any]] = []
    train("grpo", data=data, steps=1, out=tmp_path / "run", options=SMALL, heard=heard.append)
    assert not [record for record in heard if "UNSAFELY" in str(record)]
    with pytest.raises(InputError, match="are for programs, not for 'exact'"):
        train("grpo", data=data, steps=1, options={**SMALL, "grading.by": "exact", "grading.unsafe_sandbox": True})


def test_a_run_uses_the_sandbox_that_it_names(data: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from rekindle.tokens.grading.sandbox import Ran\n"
        "def run(source, call, stdin, seconds):\n    return Ran('ok', value={'int': '0x2'}, answered=True)\n"
    )
    folder = train(
        "grpo", data=data, steps=1, out=tmp_path / "run", options={**SMALL, "grading.sandbox": f"{mine}:run"}
    )
    recorded = read(folder / "run.toml")
    assert recorded["grading"]["sandbox"] == f"{mine}:run" and str(mine) in recorded["run"]["inputs"]
    with pytest.raises(InputError, match=r"grading.sandbox=.*mine.py:rum.*no function 'rum'"):
        train("grpo", data=data, steps=1, options={**SMALL, "grading.sandbox": f"{mine}:rum"})
