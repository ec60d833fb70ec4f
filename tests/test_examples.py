"""The examples and the README's Python run as they stand, with fewer steps and prompts."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from rekindle.api import train

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "01_evol_rl.py"
LESS = {"steps=20": "steps=1", "prompts=50": "prompts=2"}


def shortened(code: str) -> str:
    for long, short in LESS.items():
        assert long in code
        code = code.replace(long, short)
    return code


def test_the_python_interface_is_fifteen_lines_at_most() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 15


def test_evol_rl_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "example.py"
    script.write_text(shortened(EXAMPLE.read_text(encoding="utf-8")))
    runpy.run_path(str(script))
    said = capsys.readouterr().out
    assert re.search(r"^before \{.*'pass@16'", said, re.MULTILINE)
    assert re.search(r"^after \{.*'distinct'", said, re.MULTILINE)
    assert (tmp_path / "runs" / "example-evol-rl" / "final" / "model.safetensors").is_file()


def test_the_readme_code_is_that_of_the_example() -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    said = EXAMPLE.read_text(encoding="utf-8")
    train_line = next(line for line in block.group(1).splitlines() if line.startswith("folder ="))
    assert train_line in said
    compile(block.group(1), "README.md", "exec")


def test_your_own_method(tmp_path: Path) -> None:
    options = {"rollout.prompts": 2, "rollout.group": 4, "descent.minibatches": 1}
    method = f"{ROOT}/examples/02_your_own_method.py:shy_grpo"
    folder = train(method, task="digit_sum", steps=2, out=tmp_path / "run", options=options)
    assert (folder / "final" / "config.json").is_file()


def test_one_file_imports_nothing_of_the_package() -> None:
    text = (ROOT / "examples" / "00_grpo_in_one_file.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) rekindle", text, re.MULTILINE)
