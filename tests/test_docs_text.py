"""Pages of the site: notebooks become Markdown with their outputs, links that leave the docs become names of files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from scripts.docs_text import as_markdown, fenced, named, printed

ROOT = Path(__file__).resolve().parents[1]


def code(source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": list(outputs)}


def test_a_notebook_becomes_text_code_output_and_images() -> None:
    png = base64.b64encode(b"an image").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        code("print(1)\n2", {"output_type": "stream", "name": "stdout", "text": "1\n"}),
        code("3", {"output_type": "stream", "name": "stderr", "text": "a warning with a path"}),
        code("2", {"output_type": "execute_result", "data": {"text/plain": "2"}}),
        code("plot()", {"output_type": "display_data", "data": {"image/png": png, "text/plain": "<Figure>"}}),
    ]
    text, images = as_markdown({"cells": cells}, "first")
    assert text.startswith("# Title\ntext\n\n```python\nprint(1)\n2\n```\n\n```text\n1\n```\n")
    assert "```text\n2\n```" in text and "![A plot](first_1.png)" in text and "<Figure>" not in text
    assert images == {"first_1.png": b"an image"}
    assert text.rstrip().endswith("[first.ipynb](first.ipynb).")
    assert printed(cells[1]) == "1\n" and printed(cells[3]) == "2" and printed(cells[4]) == ""
    assert "warning" not in text and printed(cells[2]) == ""


def test_a_fence_outlasts_fences_inside() -> None:
    assert fenced("a\n```\nb", "text") == "````text\na\n```\nb\n````"
    assert fenced(" \n", "text") == ""


def test_links_that_leave_the_docs_become_names() -> None:
    assert named("see [a.py](../examples/a.py) now", "") == "see `examples/a.py` now"
    assert named("[`examples/a.py`](../examples/a.py)", "") == "`examples/a.py`"
    assert named("[how](../../rekindle/b.py#L3)", "recipes") == "how (`rekindle/b.py`)"


def test_all_other_links_stay() -> None:
    for link in ("[a](b.md)", "[a](../b.md)", "[a](#x)", "[a](https://e.org/../x)", "![i](../i.png)", "[a](b.md#c)"):
        assert named(link, "recipes") == link
    block = "```python\nx = [a](../../rekindle/b.py)\n```\n"
    assert named(block, "") == block


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {page for section in site["nav"] for pages in section.values() for page in pages}
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md") if path.parent.name != "methods"}
    assert {page for page in pages if not page.endswith(".notes.md")} - listed == set()
    notebooks = {path.relative_to(docs).with_suffix(".md").as_posix() for path in docs.rglob("*.ipynb")}
    assert notebooks <= listed
