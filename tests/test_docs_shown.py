"""What a page shows after a command is what the command prints, of those that are quick and the same everywhere.

`...` stands for anything: alone on a line for any lines, in a line for any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rekindle.cli.main import main
from scripts.blocks import SHELL, blocks, pages, plain

ROOT = Path(__file__).resolve().parents[1]
QUICK = re.compile(r"rekindle (diff|show|methods|explain|import-config|forecast docs/|train .*--dry-run)")
QWEN = """{{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": {0}, "intermediate_size": {1},
"num_hidden_layers": {2}, "num_attention_heads": {3}, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
"max_position_embeddings": 40960, "tie_word_embeddings": {4}}}"""
MODELS = {"Qwen3-4B": (2560, 9728, 36, 32, "true"), "Qwen3-32B": (5120, 25600, 64, 64, "false")}
"""Published sizes of the models that plans are shown of: a plan reads a configuration and no weights."""


@dataclass(frozen=True)
class Shown:
    """A command of a session (a line after `$ `), the lines shown after it, and the YAML that stands above it."""

    where: str
    command: str
    lines: tuple[str, ...]
    above: str


def shown(page: Path) -> Iterator[Shown]:
    """The commands of a page after which something is shown."""
    above = ""
    for block in blocks(page):
        above = block.text if block.language == "yaml" else above
        if block.language not in SHELL or block.mark is not None:
            continue
        for piece in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, *lines = re.sub(r"\A((?:.*\\\n)*)", lambda cut: cut[1].replace("\\\n", ""), piece).splitlines()
            if lines and QUICK.match(plain(command)):
                yield Shown(block.where, plain(command), tuple(lines), above)


FOUND = [one for page in pages(ROOT / "docs") for one in shown(page)]


@pytest.mark.parametrize("one", FOUND, ids=lambda one: f"{one.where} {one.command[9:40]}")
def test_a_command_prints_what_is_shown(
    one: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, sizes in MODELS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(QWEN.format(*sizes))
    for name in re.findall(r"\S+\.yaml", one.command):
        (tmp_path / name).write_text(one.above)
    with pytest.raises(SystemExit):
        main(one.command.split()[1:])
    printed = capsys.readouterr().out.partition("\n\noption ")[0]  # of a plan, without the table of all options
    told = f"shown\n{chr(10).join(one.lines)}\nprinted\n{printed}"
    assert same(one.lines, printed), f"{one.where}: {one.command}\n{told}"


def same(lines: Sequence[str], printed: str) -> bool:
    """Whether `printed` is what is shown, whatever the number of spaces."""
    pattern = "".join("(?:.*\n)*?" if line.strip() == "..." else pattern_of(line) + "\n" for line in lines)
    return re.fullmatch(pattern, "".join(tidy(line) + "\n" for line in printed.splitlines())) is not None


def pattern_of(line: str) -> str:
    return ".*".join(re.escape(piece) for piece in tidy(line).split("..."))


def tidy(line: str) -> str:
    return " ".join(line.split())


def test_there_are_such_commands() -> None:
    assert len(FOUND) >= 5


def test_another_number_a_missing_line_and_a_line_more_are_seen() -> None:
    assert same(["a  1", "...", "z"], "a 1\nb\nc\nz\n") and same(["a ... c"], "a b c\n")
    for printed in ("a 2\nb\n", "a 1\n", "a 1\nb\nc\n", ""):
        assert not same(["a 1", "b"], printed)
