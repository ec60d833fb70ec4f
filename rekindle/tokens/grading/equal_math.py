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

from rekindle.tokens.grading.forms import (
    COMMA,
    TEXT,
    WORD,
    added_words,
    is_list,
    listed,
    mixed,
    repeating,
    rounded,
    unread,
    values,
)
from rekindle.tokens.grading.numbers import normalise, ungrouped

_ANCHOR = re.compile(r"\$|\\\(|\\\[|\\boxed")
_SUBSCRIPT = re.compile(r"[0-9]\s*_")
_WORDS = re.compile(r"[^\W\d_]+(?:[ ,.'’-]+[^\W\d_]+)*\.?")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)|\\equiv(?![a-zA-Z])|\\approx(?![a-zA-Z])|\\sim(?![a-zA-Z])")
_NAME = re.compile(r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\([a-zA-Z, ]*\))?|\\text\s*\{[^{}]*\}")
_JOIN = re.compile(
    r"\\(?:to|gets|iff|implies|(?:long)?(?:left|right)+arrow|mapsto|neq?|not|[lv]?or|v?ee|l?and|wedge|cup|cap|n?mid|vert|parallel)(?![a-z])"
    r"|\\\\|!=|[&;]|(?:^[^|]*\|[^|]*$)",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"[<>]|\\[lg]e|\\in|\\pm|\\mp")
_CAPITALISED = re.compile(r"[A-Z][a-z]+")
_BRACKET = re.compile(r"[()\[\]{}]")
_SHORT = "no yes on not one two six ten odd all any up mon tue wed thu fri sat sun red tie win"
_SHORT_WORDS = frozenset(_SHORT.split())
_HUGE = re.compile(r"[eE][+-]?[\d_]{4}")
"""An exponent whose power of ten is not worked out: `1e999999999` has a billion digits."""
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
    reference, answer = (repeating(ungrouped(opened(text))) for text in (reference, answer))
    if words(reference) is not None:
        return {"success": words(reference) == worded(answer), "by": "text"}
    reference = listed(reference)
    answer = listed(answer) if is_list(reference) else answer
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
    near = rounded(answer)
    if near is not None and all(equal(gold, part) for part in stated(reference, near[0])) and shows(gold, *near[1:]):
        return {"success": True, "by": "math"}
    right = [equal(gold, part) for part in stated(reference, answer)]
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


def stated(reference: str, answer: str) -> list[str]:
    """What an answer says, each of which must be right: itself, or its sides; of a list both sides of all values."""
    if _EQUALS.search(reference) or not _EQUALS.search(answer):
        return [answer]
    each = [sides(value) for value in values(answer)] if is_list(reference) else [sides(answer)]
    if len(each) == 1:
        return each[0]
    if any(len(one) > 2 or (len(one) == 2 and not equal(parsed(one[0]), one[1])) for one in each):
        return [""]  # `1 = 2, 2 = 1` says too much for a list of 1 and 2
    return [", ".join(last) for last in ([one[0] for one in each], [one[-1] for one in each])]


def shows(gold: tuple[Any, ...], shown: Fraction, half: Fraction) -> bool:
    """Whether a decimal is the rounding of the reference's value to its digits."""
    from sympy import Expr

    exact = [one for one in gold if isinstance(one, Expr) and one.is_number and one.is_real]
    return any(abs(float(one) - float(shown)) <= float(half) * (1 + 1e-9) for one in exact)


def sides(answer: str) -> list[str]:
    """The values that an answer states: of `x = 1/2 = 0.5` the two last, for a name may stand on the left."""
    parts = _EQUALS.split(answer)
    return parts[1:] if len(parts) > 1 and _NAME.fullmatch(parts[0].strip()) else parts


def opened(text: str) -> str:
    r"""An answer without the `\text{...}` that stands around the whole of it where it holds no words: `\mathrm{7}`."""
    whole = TEXT.fullmatch(text.strip())
    return whole[1].strip() if whole and not WORD.search(whole[1]) else text


def by_rule(reference: str, answer: str) -> bool | None:
    """What math-verify would read too kindly; None where it is asked.

    It drops subscripts (the base of a number) and what follows a unit, takes a set for a tuple and `7,7` for 7, and
    compares 6 decimals.
    """
    if mixed(reference) or mixed(answer):
        return re.sub(r"\s|[.$]", "", reference) == re.sub(r"\s|[.$]", "", answer)
    if _SUBSCRIPT.search(reference) or _SUBSCRIPT.search(answer):
        return re.sub(r"[\s{}$]", "", reference) == re.sub(r"[\s{}$]", "", answer)
    if COMMA.search(answer) and not COMMA.search(reference) and not _SEVERAL.search(reference):
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
    plain = normalise(text) or ""
    if _HUGE.search(plain):
        return None
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def hedged(reference: str, answer: str) -> bool:
    """Whether an answer says more than the reference: an arrow, a connective, numbers or words that are no unit."""
    said = any(character.isdigit() for text in TEXT.findall(answer) for character in text)
    joined = _JOIN.search(answer) and not _JOIN.search(reference)
    lost = unread(answer) and not unread(reference)
    return bool(added_words(reference, answer) or joined or lost or (said and not TEXT.search(reference)))


def ready() -> None:
    """Load what is slow to load: sympy, and the grammar of LaTeX at the first use."""
    same(r"\frac{1}{2}", r"\sqrt{2}")


def check(reference: str) -> dict[str, Any]:
    """Whether a reference is read at all and equals itself; what hangs here hangs for every answer."""
    same(reference, "0")  # equal expressions are not worked out
    return same(reference, reference)


def words(text: str) -> str | None:
    r"""A text of words in lower case, `\text{...}` opened; None where it is anything else, such as `xy` or `2x`."""
    plain = " ".join(TEXT.sub(r"\1", text).replace("$", "").split()).removesuffix(".")
    known = plain.casefold() in _SHORT_WORDS or _CAPITALISED.fullmatch(plain)
    if not known and max(map(len, re.split(r"[^\w]+", plain))) < _LONG:
        return None
    return worded(text)


def worded(text: str) -> str | None:
    """As `words`, of short words too: what is compared with a reference of words."""
    plain = " ".join(TEXT.sub(r"\1", text).replace("$", "").split())
    return plain.removesuffix(".").casefold() if _WORDS.fullmatch(plain) else None


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
