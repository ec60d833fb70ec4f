from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.cli.shelf import source
from rekindle.core.method import Card
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.methods import names
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten

FILE = """
from __future__ import annotations
from dataclasses import dataclass

from rekindle.core.objectives import Clip
from rekindle.methods import grpo

@dataclass(frozen=True, kw_only=True)
class Half:
    share: float = 0.5

    def __call__(self, advantage, batch):
        return advantage * self.share

def mine():
    return grpo.method().replace(objective=Clip(low=0.9, high=1.1, dual=None), modulate=(Half(),))

def broken():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def out(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_methods_lists_every_card() -> None:
    listed = out("methods")
    assert listed.splitlines()[0].split() == ["method", "paper", "status", "effect", "idea"]
    for name in names():
        assert any(line.split()[:1] == [name] for line in listed.splitlines())
    assert max(map(len, listed.splitlines())) <= 120
    assert not any(line.endswith(" ") for line in listed.splitlines())


def test_methods_json_is_a_list_of_whole_cards() -> None:
    cards = json.loads(out("methods", "--json"))
    assert [card["name"] for card in cards] == list(names())
    assert all(card.keys() == {"name", *(f.name for f in fields(Card))} for card in cards)
    evol = next(card for card in cards if card["name"] == "evol_rl")
    assert (evol["parent"], evol["year"], evol["arxiv"]) == ("ttrl", 2025, "2509.15194")


@pytest.mark.parametrize("name", ["evol_rl", "evol-rl"])
def test_show_tells_every_option_and_its_source(name: str) -> None:
    shown = out("show", name)
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    for path in flatten(make_method(find_method(name))):
        assert path in lines
    assert "1.28" in lines["objective.high"]
    assert "official code" in lines["objective.high"]
    assert "arXiv 2509.15194" in shown


@pytest.mark.parametrize("name", names())
def test_every_number_of_every_method_has_a_source(name: str) -> None:
    found = find_method(name)
    options = flatten(make_method(found))
    numbers = {p: v for p, v in options.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    assert numbers
    assert [path for path, value in numbers.items() if not source(found, path, value)] == []


def test_a_source_is_inherited_only_with_the_value() -> None:
    evol = find_method("evol_rl")
    assert source(evol, "objective.low", 0.8) == source(find_method("grpo"), "objective.low", 0.8) != ""
    assert source(evol, "objective.low", 0.7) == ""
    assert source(evol, "no.such.slot", 1) == ""


def test_diff_of_ttrl_and_evol_rl_fits_six_lines() -> None:
    lines = out("diff", "ttrl", "evol-rl").splitlines()
    assert 1 <= len(lines) <= 6
    text = "\n".join(lines)
    for part in ("NoveltyBands(", "objective.high: 1.2 -> 1.28", "EntropyBonus(coef=0.003"):
        assert part in text
    assert "[README run command: 0.003]" in text
    assert out("diff", "ttrl", "ttrl").strip() == "ttrl and ttrl are the same record"
    changes = json.loads(out("diff", "ttrl", "evol_rl", "--json"))
    assert {"path": "objective.high", "old": "1.2", "new": "1.28"} in changes


def test_a_method_of_the_users_file_is_taken_everywhere(file: Path) -> None:
    lines = out("diff", "grpo", f"{file}:mine").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "modulate.0",
        "objective.low",
        "objective.high",
        "objective.dual",
    ]
    assert "no card" in out("show", f"{file}:mine")
    assert json.loads(out("show", "--json", f"{file}:mine"))["options"]["objective.high"] == 1.1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}:min", "did you mean 'mine'"),
        ("{file}:broken", "returned int: return a PolicyGradient"),
        ("{file}", "is not of the form FILE.py:function"),
        ("nowhere.py:mine", "nowhere.py: no such file"),
        ("evol_lr", "did you mean 'evol_rl'"),
    ],
)
def test_what_is_no_method_is_refused_in_one_sentence(
    file: Path, spec: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_safely(app, ["show", spec.format(file=file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("rekindle: ") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def ends_with(ending: type[BaseException]) -> typer.Typer:
    ender = typer.Typer(pretty_exceptions_enable=False)

    @ender.command()
    def end() -> None:
        raise ending("over\nand out")

    return ender


@pytest.mark.parametrize(
    ("ending", "code"), [(InputError, 2), (GuardStop, 3), (EngineDead, 4), (KeyboardInterrupt, 130)]
)
def test_exit_codes(ending: type[BaseException], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_safely(ends_with(ending), []) == code
    expected = "" if ending is KeyboardInterrupt else "rekindle: over and out\n"
    assert capsys.readouterr().err == expected


def test_a_bug_keeps_its_traceback_and_a_wrong_command_is_input() -> None:
    with pytest.raises(LookupError):
        run_safely(ends_with(LookupError), [])
    assert run_safely(app, ["trian"]) == 2
    assert run_safely(app, ["methods", "--jsn"]) == 2
    assert run_safely(app, ["--version"]) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rekindle.cli.main import app; from rekindle.cli.common import run_safely\n"
        "rc = run_safely(app, ['--help'])\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pydantic') if m in sys.modules], rc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
