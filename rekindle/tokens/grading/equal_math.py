r"""Equality of mathematical answers by math-verify, in a worker: nothing here bounds its time.

Differs from its defaults (huggingface/Math-Verify): it gets the extracted answer, never the whole response, so that
several boxes do not merge into a set and no bare number of the text counts; its time-outs, which are signals, are off;
answers that say two things ("5 = 7", "5 \to 7", `7 \text{ (or 5)}`), of which it takes the last or the first, fail.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rekindle.tokens.grading.numbers import normalise

_ANCHOR = re.compile(r"\$|\\\(|\\\[|\\boxed|\\begin")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|textrm|mbox)\s*\{([^{}]*)\}")
_WORD = re.compile(r"[^\W\d_]+")
_SUBSCRIPT = re.compile(r"[0-9]\s*_")
_COMMA = re.compile(r"(?<!\\),(?!\s*[0-9]{3}(?![0-9]))")
_WORDS = re.compile(r"[^\W\d_]+(?:[ ,.'’-]+[^\W\d_]+)*\.?")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)|\\equiv(?![a-zA-Z])|\\approx(?![a-zA-Z])|\\sim(?![a-zA-Z])")
_NAME = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]*\))?|\\text\s*\{[^{}]*\}")
_JOIN = re.compile(
    r"\\(?:to|gets|iff|implies|(?:long)?(?:left|right)+arrow|mapsto|neq?|not|[lv]?or|v?ee|l?and|wedge|cup|cap|n?mid|vert|parallel)(?![a-z])"
    r"|\\\\|!=|[&;]|(?:^[^|]*\|[^|]*$)",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"[()\[\]{}]")
_UNIT_WORDS = """
mm cm dm m km in inch inches ft foot feet yd yard yards mi mile miles g kg mg lb lbs pound pounds oz ounces ton tons
s sec second seconds min minute minutes h hr hrs hour hours day days week weeks month months year years l ml liter
liters litre litres gallon gallons meter meters metre metres kilometers centimeters mph kmh per square sq cubic unit
units degree degrees rad radian radians deg dollar dollars cent cents euro euros percent hz n j w v a pa k c f mol
"""
_UNITS = frozenset(_UNIT_WORDS.split())
_SHORT = "no yes on not one two six ten odd all any up mon tue wed thu fri sat sun red tie win"
_SHORT_WORDS = frozenset(_SHORT.split())
MAX_DEPTH = 20
"""Levels of brackets in an answer."""
_TINY = Fraction(1, 10**4)
_LONG = 4
"""Letters of a word that is no product of symbols."""


def same(reference: str, answer: str) -> dict[str, Any]:
    """Whether two answers are equal. {"success": bool, "by": "math" or "text"}, and "ambiguous" of a hedged answer.

    References that are words are compared as text, case aside: math-verify takes a word for a product of its letters,
    and so any anagram of "east" for equal. So are references in which it finds no mathematics.
    """
    reference, answer = opened(reference), opened(answer)
    if words(reference) is not None:
        return {"success": words(reference) == words(answer), "by": "text"}
    exact = by_rule(reference, answer)
    if exact is not None:
        return {"success": exact, "by": "text"}
    gold = parsed(reference)
    if not gold:
        return {"success": " ".join(reference.split()) == " ".join(answer.split()), "by": "text"}
    if depth(answer) > MAX_DEPTH:
        return {"success": False, "by": "math", "why": f"nested {depth(answer)} levels deep, at most {MAX_DEPTH}"}
    if hedged(reference, answer):
        return {"success": False, "by": "math", "ambiguous": True}
    parts = [answer] if _EQUALS.search(reference) else sides(answer)
    right = [equal(gold, part) for part in parts]
    return {"success": all(right), "by": "math", **({"ambiguous": True} if any(right) and not all(right) else {})}


def depth(text: str) -> int:
    """How deep brackets are nested; the parser's time grows with its square and more."""
    now = deepest = 0
    for bracket in _BRACKET.findall(text):
        now += 1 if bracket in "([{" else -1
        deepest = max(deepest, now)
    return deepest


def equal(gold: tuple[Any, ...], answer: str) -> bool:
    """math-verify's verdict."""
    from math_verify import verify

    return bool(verify(list(gold), list(predicted(answer)), timeout_seconds=None))


def sides(answer: str) -> list[str]:
    """The values that an answer states: of `x = 1/2 = 0.5` the two last, for a name may stand on the left."""
    parts = _EQUALS.split(answer)
    return parts[1:] if len(parts) > 1 and _NAME.fullmatch(parts[0].strip()) else parts


def opened(text: str) -> str:
    r"""An answer without the `\text{...}` that stands around the whole of it where it holds no words: `\mathrm{7}`."""
    whole = _TEXT.fullmatch(text.strip())
    return whole[1].strip() if whole and not _WORD.search(whole[1]) else text


def by_rule(reference: str, answer: str) -> bool | None:
    """What math-verify would read too kindly; None where it is asked.

    It drops subscripts (the base of a number), takes a set for a tuple and `7,7` for 7, and compares 6 decimals.
    """
    if _SUBSCRIPT.search(reference) or _SUBSCRIPT.search(answer):
        return re.sub(r"[\s{}$]", "", reference) == re.sub(r"[\s{}$]", "", answer)
    if _COMMA.search(answer) and not _COMMA.search(reference) and not re.search(r"[<>]|\\[lg]e|\\in", reference):
        return False
    if "," in reference and {_bracket(reference), _bracket(answer)} in ({"{", "("}, {"{", "["}):
        return False
    gold, said = _number(reference), _number(answer)
    if gold is None or said is None or not 0 < abs(gold) < _TINY:
        return None
    return abs(gold - said) <= abs(gold) / 10**6


def _bracket(text: str) -> str:
    return text.strip().strip("$").replace("\\left", "").replace("\\", "")[:1]


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(normalise(text) or "")
    except (ValueError, ZeroDivisionError):
        return None


def hedged(reference: str, answer: str) -> bool:
    """Whether an answer says more than the reference: an arrow, a connective, numbers or words that are no unit."""
    texts = _TEXT.findall(answer)
    said = any(character.isdigit() for text in texts for character in text)
    added = {word.lower() for text in texts for word in _WORD.findall(text)} - _UNITS
    added -= {word.lower() for word in _WORD.findall(reference)}
    joined = _JOIN.search(answer) and not _JOIN.search(reference)
    return bool(added or joined or (said and not _TEXT.search(reference)))


def ready() -> None:
    """Load what is slow to load: sympy, and the grammar of LaTeX at the first use."""
    same(r"\frac{1}{2}", r"\sqrt{2}")


def check(reference: str) -> dict[str, Any]:
    """Whether a reference is read at all and equals itself; what hangs here hangs for every answer."""
    same(reference, "0")  # equal expressions are not worked out
    return same(reference, reference)


def words(text: str) -> str | None:
    r"""A text of words in lower case, `\text{...}` opened; None where it is anything else, such as `xy` or `2x`."""
    plain = " ".join(_TEXT.sub(r"\1", text).replace("$", "").split())
    short = plain.removesuffix(".").casefold() not in _SHORT_WORDS
    if not _WORDS.fullmatch(plain) or (short and max(map(len, re.split(r"[^\w]+", plain))) < _LONG):
        return None
    return plain.removesuffix(".").casefold()


@lru_cache(maxsize=4096)
def parsed(reference: str) -> tuple[Any, ...]:
    """A reference as math-verify reads it, with its default configuration; () where it reads nothing."""
    return _parse(reference if _ANCHOR.search(reference) else f"${reference}$")


@lru_cache(maxsize=4096)
def predicted(answer: str) -> tuple[Any, ...]:
    """An extracted answer as math-verify reads LaTeX in a box.

    Its reader of plain text stays off: of a box that is no LaTeX, it takes the last number.
    """
    from math_verify import LatexExtractionConfig

    return _parse(
        f"\\boxed{{{answer}}}", [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
    )


def _parse(text: str, how: Sequence[Any] | None = None) -> tuple[Any, ...]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # On an error it logs the whole text.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL + 1)
    unbounded: Any = None  # documented for threads and processes, but not in its annotation
    readers = [LatexExtractionConfig(), ExprExtractionConfig()] if how is None else how
    return tuple(parse(text, readers, parsing_timeout=unbounded))
