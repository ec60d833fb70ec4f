r"""The final answer that a response states in `\boxed{...}`: the last box whose braces balance, found in one pass."""

from __future__ import annotations

import re
from bisect import bisect_left

# One linear scan: a box opener, an escaped character (`\{` is a literal brace, `\\` a line break), or a bare brace.
# The look-ahead keeps the second backslash of an over-escaped `\\boxed{` in play.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\(?!\\(?:boxed|fbox))[^a-zA-Z]|[{}]")


def boxes(text: str) -> list[tuple[int, int, int]]:
    r"""All complete boxes: start of the command, start and end of the content. Linear in the text."""
    open_braces: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int]] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "{":
            open_braces.append(None)
        elif mark == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None:
                found.append((box[0], box[1], token.start()))
        elif mark.endswith("{") and len(mark) > 2:
            open_braces.append((token.start(), token.end()))
    return found


def find_boxed(text: str) -> tuple[int, int, int] | None:
    r"""The last complete `\boxed{...}` or `\fbox{...}`; of nested boxes the inner one, for it opens last. Or None."""
    return max(boxes(text), default=None)


def boxed_digit(text: str) -> bool:
    """Whether some complete box after the reasoning holds a digit: EVOL-RL's validity, with balanced braces."""
    shown = after_think(text)
    digits = [at for at, character in enumerate(shown) if character.isdigit()]
    # By bisection, since scanning the content of nested boxes is quadratic.
    return any(bisect_left(digits, start) < bisect_left(digits, end) for _, start, end in boxes(shown))


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete box, as written; None where there is none.

    >>> extract_boxed(r"\boxed{\frac{1}{2}} ... \boxed{3")
    '\\frac{1}{2}'
    """
    found = find_boxed(text)
    return None if found is None else text[found[1] : found[2]]


def after_think(text: str) -> str:
    """The part after the first `</think>`, or the whole text where that tag does not occur."""
    head, tag, tail = text.partition("</think>")
    return tail if tag else head
