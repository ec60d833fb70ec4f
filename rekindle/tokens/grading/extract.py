r"""Where the answer stands in a response: one answer by a stated rule, the last of its kind, after the reasoning.

Every rule is linear in the text and never raises. Texts of more than 50,000 characters after the reasoning, and answers
of more than 2,000, are no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from rekindle.tokens.grading.boxed import after_think, extract_boxed
from rekindle.tokens.grading.numbers import normalise

MAX_TEXT = 50_000
"""Characters of a response after its reasoning that are looked at; a longer one has no answer."""

_NUMBER = re.compile(r"(?<![0-9A-Za-z.])-?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")
_ANSWER = re.compile(
    r"(?i:(?<!/)\banswer\b[*_]*(?:[ \t]+is\b[*_]*[ \t]*[:：]?|[ \t]*[:：>]|[ \t]*(?=\n))(?:[ \t]*(?:option|choice)\b)?)"
)
_LINE = re.compile(r"(?im)^[ \t*#>]*(?:final )?answer[ \t*]*[:：](.*)$")
_LETTER = r"(?:\\(?:text|textbf|mathrm|mathbf|textit|textrm)\s*\{\s*)?[(\[]?\s*([A-Z])\s*[)\]]?(?:\s*\})?"
_ONE = re.compile(rf"\s*[*$]*{_LETTER}[*$]*\s*[.:]?\s*")
_STATED = re.compile(rf"[*$\s]*(?:\\\(\s*)?{_LETTER}(?![A-Za-z])")
_MAYBE = r"(?:\s*(?:maybe|perhaps|possibly|rather)\b)?"
_OR = rf"[(]?(?:[,/|;&+]|\\l?or(?![a-z])|\\text\s*\{{\s*(?:or|and)\s*\}}|(?:or|and)\b){_MAYBE}"
_MORE = re.compile(rf"[*$\s]*{_OR}[*$\s]*[(\[]?([A-Z])(?![A-Za-z])")
_BRACKETED = re.compile(r"\(([A-Z])\)")
# Blanks may stand before and after a language that may be empty: taken once, or a line of blanks is quadratic.
_FENCE = re.compile(r"^[ \t]*+```[ \t]*+([A-Za-z0-9_+-]*+)[ \t\r]*+$", re.MULTILINE)
_SHORT = 100
"""Characters in which a letter must be stated: the patterns above are not linear."""


@dataclass(frozen=True)
class Found:
    """An answer and how it was found: "ambiguous" where several that differ are stated as the answer."""

    answer: str | None
    status: Literal["ok", "no_answer", "ambiguous"]

    @staticmethod
    def of(answer: str | None) -> Found:
        """One answer; None or an empty text is none."""
        return Found(answer or None, "ok" if answer else "no_answer")


def boxed(text: str) -> Found:
    r"""The last `\boxed{...}` or `\fbox{...}` whose braces balance. Of boxes that differ, too, the last counts."""
    return Found.of(normalise(extract_boxed(text)))


def marked(text: str) -> Found:
    """The rest of the line after the last `####` (GSM8K): "#### $1,234." is 1234."""
    _, mark, tail = text.rpartition("####")
    return Found.of(normalise(tail.strip().partition("\n")[0].strip(" *\r")) if mark else None)


def last_number(text: str) -> Found:
    """The last number: an integer, a decimal, or a/b. A minus counts where no digit or letter stands before it."""
    found = _NUMBER.findall(text)
    return Found.of(normalise(found[-1].rstrip(",")) if found else None)


def whole(text: str) -> Found:
    """The whole response."""
    return Found.of(normalise(text.strip()))


def anywhere(text: str) -> Found:
    """The last box, else what follows the last `####`, else the last line "Answer: ...", else the last number."""
    for rule in (boxed, marked, _line, last_number):
        found = rule(text)
        if found.answer is not None:
            return found
    return found


def _line(text: str) -> Found:
    lines = _LINE.findall(text)
    return Found.of(normalise(lines[-1].strip(" \t*")) if lines else None)


def choice(text: str) -> Found:
    r"""A capital letter: in the last box; else after the last "answer:", "answer is" or line that ends in "answer";
    else in brackets; else alone.

    Ambiguous where the last statement names several ("Answer: A or B"), or where letters in brackets, which reasoning
    may quote, differ.
    """
    box = extract_boxed(text)
    if box is not None:
        return _letters(box if len(box) > 1 else box.upper())
    after = [text[found.end() : found.end() + _SHORT] for found in _ANSWER.finditer(text)]
    stated = [said for said in after if _STATED.match(said)]
    if stated:
        return _letters(stated[-1])
    letters = set(_BRACKETED.findall(text))
    if letters:
        return Found(letters.pop(), "ok") if len(letters) == 1 else Found(None, "ambiguous")
    alone = _ONE.fullmatch(text.strip()[:_SHORT])
    return Found.of(alone[1] if alone and len(text.strip()) < _SHORT else None)


def _letters(text: str) -> Found:
    """The letter that `text` begins with; ambiguous where others are named beside it."""
    text = text.strip()[:_SHORT]
    first = _STATED.match(text)
    if first is None:
        return Found(None, "no_answer")
    other = _MORE.match(text, first.end())
    if other is not None and other[1] != first[1]:
        return Found(None, "ambiguous")
    return Found(first[1], "ok")


def letter(text: str) -> str | None:
    """A reference of a multiple choice as its letter: "B", "(B)", "b."; None where it is no single letter."""
    plain = text.replace("\\text", "").strip(" \t\n{}$").upper() if len(text) < _SHORT else ""
    one = _ONE.fullmatch(plain)
    return one[1] if one else None


def program(text: str) -> Found:
    """The last complete ```python block (or ```py), as written."""
    blocks = [body for kind, body in fenced(text) if kind in ("python", "py", "python3")]
    return Found.of(blocks[-1] if blocks else None)


def payload(text: str) -> Found:
    """The one ```json block; the whole response where there is no block. Ambiguous where there are several."""
    blocks = [body for kind, body in fenced(text) if kind in ("json", "")]
    if len(blocks) > 1:
        return Found(None, "ambiguous")
    return Found.of((blocks[0] if blocks else text).strip())


def fenced(text: str) -> list[tuple[str, str]]:
    """(language in lower case, content) of every complete block between ``` lines, in order."""
    out: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif not fence[1]:
            out.append((opened[1].lower(), text[opened.end() + 1 : fence.start()]))
            opened = None
    return out


RULES: Mapping[str, Callable[[str], Found]] = MappingProxyType(
    {
        "boxed": boxed,
        "hash": marked,
        "last_number": last_number,
        "choice": choice,
        "whole": whole,
        "any": anywhere,
        "json": payload,
        "code": program,
    }
)


def extract(rule: str, text: str) -> Found:
    """The answer in a response by the rule of that name, looked for after `</think>`."""
    said = after_think(text)
    return RULES[rule](said) if len(said) <= MAX_TEXT else Found(None, "no_answer")
