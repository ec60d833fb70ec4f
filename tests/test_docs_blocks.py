"""Every code block of the pages: Python runs, commands are taken by the real command line, data can be read.

<<<<<<< HEAD
The shortening rule: in Python, `steps=N` becomes `steps=1, options=LESS` and `prompts=N` becomes 2. What cannot run
says so in a comment on the line before it (`scripts/blocks.py`). The commands of the first run and of the recipes run
in `tests/cli/test_docs_runs.py`.
=======
The shortening rule: in Python, `steps=N` becomes `steps=1, options=LESS` and `prompts=N` becomes 2. What cannot run has
a comment on the line before it that says why (`scripts/blocks.py`). The commands of the first run and of the recipes
run in `tests/cli/test_docs_runs.py`.
>>>>>>> ccaddf9 (Tests and pictures that the last commit took away by mistake are back)
"""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scripts.blocks import SHELL, Block, blocks, commands, pages, plain, script
from tests.told import ROOT, check

PAGES = [ROOT / "README.md", *pages(ROOT / "docs")]
LESS = {
    "rollout.prompts": 2,
    "rollout.votes": 4,
    "rollout.group": 4,
    "descent.minibatches": 1,
    "evaluate.baseline": False,
}
SHORTER = ((re.compile(r"\bsteps=\d+"), f"steps=1, options={LESS}"), (re.compile(r"\bprompts=\d+"), "prompts=2"))


def rows(text: str) -> list[object]:
    """A JSON value, or one a line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


DATA: dict[str, Callable[[str], object]] = {
    "json": rows,
    "jsonl": rows,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "text": str,
}


def of(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages that are not marked, a page after the other."""
    return [b for page in PAGES for b in blocks(page) if b.language in languages and b.mark is None]


def named(block: Block) -> str:
    return block.where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_read_or_marked(page: Path) -> None:
    found = blocks(page)
    for block in found:
        assert block.mark or block.language in ("python", *SHELL, *DATA), (
            f"{block.where}: nothing is known of {block.language}: mark it <!-- not run: REASON -->"
        )
    marks = re.findall(r"^ *<!-- (?:not run|needs)\b.*", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(marks) == sum(block.mark is not None for block in found), f"{page.name}: a mark is not before a block"


@pytest.mark.parametrize("block", [b for p in PAGES for b in blocks(p) if b.mark and b.mark[0] == "needs"], ids=named)
def test_what_a_block_needs_is_not_here(block: Block) -> None:
    assert block.mark is not None
    assert importlib.util.find_spec(block.mark[1]) is None, f"{block.where} can run: take the mark away"


@pytest.mark.parametrize("block", of("python"), ids=named)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = block.text
    for long, short in SHORTER:
        code = long.sub(short, code)
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    runpy.run_path("block.py", run_name="block")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: set[str] = set()
    for block in blocks(page):
        written |= set(re.findall(r"\A# (\w+\.py)\b", block.text))
        for line in commands(block) if block.mark is None or block.mark[0] == "not run" else ():
            try:
                check(line, written, monkeypatch)
            except Exception as error:
                raise AssertionError(f"{block.where}: {line}: {error}") from error


@pytest.mark.parametrize("block", of(*DATA), ids=named)
def test_data_can_be_read(block: Block) -> None:
    DATA[block.language](block.text)


WRONG = (
    "rekindle trian grpo",
    "rekindle train grpo --step 3",
    "rekindle train grpo --sampler vlm",
    "rekindle train grop",
    "rekindle train grpo --set objective.hihg=1.3",
    "rekindle train grpo --set objective.high=high",
    "rekindle compare ttrl evol --seeds 1",
    "rekindle eval [--tsk NAME]",
    "make tset",
    "python nowhere.py",
    "pip install 'rekindle[rays]'",
    "torchrun --nproc-per-node 8 -m rekindle train grpo --rank 8",
    "frobnicate",
)


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_caught(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseException) as caught:
        check(line, set(), monkeypatch)
    assert not isinstance(caught.value, KeyboardInterrupt | pytest.fail.Exception)


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n<!-- needs: trl -->\n```python\nimport trl\n```\n"
        "## B\n\n````\n```\n$ rekindle methods  # all\nout\n````\n"
    )
    first, second = blocks(page)
    assert (first.language, first.mark, first.heading, first.line) == ("python", ("needs", "trl"), "A", 3)
    assert second.mark is None and second.heading == "B" and commands(second) == ["rekindle methods"]
    page.write_text("```\nopen")
    with pytest.raises(ValueError, match="never closed"):
        blocks(page)


def test_lines_are_joined_and_output_is_left_out() -> None:
    text = "rekindle train grpo \\\n    --steps 3   # three\nrekindle methods          the shelf\nsaid: nothing"
    block = Block(Path("p.md"), 1, "", text, "", None)
    assert commands(block) == ["rekindle train grpo --steps 3", "rekindle methods"]
    assert plain("# only a remark") == "" and plain("a 'b#c'") == "a 'b#c'"


def test_a_page_becomes_a_script(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n```python\n# a.py\nx = 1\n```\n<!-- not run: never -->\n```bash\nfalse\n```\n```bash\npython a.py\n```\n"
    )
    assert (
        script(page) == "stage 'A'\ncat >a.py <<'END_OF_BLOCK'\n# a.py\nx = 1\nEND_OF_BLOCK\nstage 'A'\npython a.py\n"
    )


def test_pages_that_the_site_is_built_from_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    for name in ("b.md", "a.md", "methods/grpo.md"):
        (tmp_path / name).write_text("# A\n")
    assert pages(tmp_path) == [tmp_path / "a.md", tmp_path / "b.md"]
    assert PAGES[1:] and not any("methods" in page.parts for page in PAGES)
