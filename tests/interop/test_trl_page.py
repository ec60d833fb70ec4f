"""The page about TRL: the blocks that need no TRL run. The others run in tests/heavy."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from rekindle.interop.trl.fitting import OWNED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "interop_trl.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- needs: trl -->\n)?```python\n(.*?)```", PAGE, flags=re.DOTALL)
FREE = [text for needs, text in BLOCKS if not needs]
BOUND = [text for needs, text in BLOCKS if needs]


def runs(text: str, folder: Path) -> None:
    place = folder / "block.py"
    place.write_text(text, encoding="utf-8")
    runpy.run_path(str(place))


@pytest.mark.parametrize("text", FREE)
def test_a_block_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "import trl" not in text and "from trl" not in text and "RekindleTrainer" not in text
    runs(text, tmp_path)


def test_there_are_blocks_of_both_kinds() -> None:
    assert len(FREE) == 3 and len(BOUND) == 2
    assert all("from trl import" in text for text in BOUND)


def test_the_page_names_what_is_refused() -> None:
    for name in ("epsilon", "loss_type", "scale_rewards"):
        assert name in OWNED and f"`{name}`" in PAGE
