from __future__ import annotations

from tests.interop import page


def test_the_page_shows_what_its_commands_print() -> None:
    text = page.PAGE.read_text()
    assert len(page.COMMAND.findall(text)) == 3
    assert page.made(text) == text, "run python -m tests.interop.page"


def test_a_wrong_line_on_the_page_is_seen() -> None:
    text = page.PAGE.read_text()
    assert page.made(text.replace("epsilon=0.2", "epsilon=0.3")) == text
