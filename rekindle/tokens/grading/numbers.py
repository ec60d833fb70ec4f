r"""Exact grading of short answers: integers, decimals and fractions by value, all else by its text, without evaluation.

Differs from math-verify: no symbolic algebra, so it needs no time limit and no process, and never raises.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from rekindle.tokens.grading.boxed import extract_boxed

MAX_ANSWER = 2_000
"""Characters of an answer that are looked at; a longer one is no answer (also bounds the work on huge integers)."""

_GROUPED = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,;!:])(?=[0-9]{3}(?![0-9]))")
_DROP = re.compile(r"\\[ ,;:!$]|\$")
_FRACTION_COMMAND = re.compile(r"\\[dt]frac(?![a-zA-Z])")
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(rf"([+-]?) ?({_INTEGER}\.?[0-9]*|\.[0-9]+)")
_RATIO = re.compile(rf"([+-]?) ?({_INTEGER}) ?/ ?([+-]?{_INTEGER})")
_FRAC = re.compile(rf"([+-]?) ?\\frac ?(?:\{{ ?([+-]?{_INTEGER}) ?\}} ?\{{ ?([+-]?{_INTEGER}) ?\}}|([0-9]) ?([0-9]))")


def normalise(text: str | None) -> str | None:
    r"""The canonical string of an answer, None where there is none (None, empty, or more than 2,000 characters).

    Integers, decimals, `a/b` and `\frac{a}{b}` become an integer or a reduced fraction, exactly: "007" -> "7",
    "1,000" (`1{,}000` and `1\,000` too) -> "1000", "0.50" -> "1/2". Dollar signs, LaTeX spaces and a trailing full stop
    are dropped. Any other text keeps its case; its white space is collapsed. Total (never raises) and linear.
    """
    if text is None or len(text) > MAX_ANSWER:
        return None
    plain = _DROP.sub(" ", ungrouped(text)).replace("\u2212", "-")
    plain = " ".join(_FRACTION_COMMAND.sub(r"\\frac", plain).split())
    plain = plain.removesuffix(".").rstrip()
    value = _value(plain)
    return (plain or None) if value is None else str(value)


def ungrouped(text: str) -> str:
    r"""The text with LaTeX's separators of thousands (`1{,}000`, `1\,000`) as commas."""
    return _GROUPED.sub(",", text)


def _value(plain: str) -> Fraction | None:
    number = _NUMBER.fullmatch(plain)
    if number:
        return _signed(number[1], Fraction(number[2].replace(",", "").removesuffix(".")))
    ratio = _RATIO.fullmatch(plain)
    if ratio:
        return _quotient(ratio[1], ratio[2], ratio[3])
    frac = _FRAC.fullmatch(plain)
    if frac:
        return _quotient(frac[1], frac[2] or frac[4], frac[3] or frac[5])
    return None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _quotient(sign: str, above: str, below: str) -> Fraction | None:
    denominator = int(below.replace(",", ""))
    if denominator == 0:
        return None
    return _signed(sign, Fraction(int(above.replace(",", "")), denominator))


def reference_text(value: object) -> str | None:
    r"""The gold answer inside a data set's value, None where it cannot be graded.

    Numbers are written out (booleans, infinities and NaN cannot be graded); a text with a complete box gives the box
    (MATH solutions), one with a `####` marker what follows the last one (GSM8K), any other text itself.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float | Decimal):
        exact = Decimal(repr(value)) if isinstance(value, float) else value
        return format(exact, "f") if exact.is_finite() and abs(exact.adjusted()) < MAX_ANSWER else None
    if isinstance(value, int):
        return str(value) if abs(value) < 10**MAX_ANSWER else None
    if not isinstance(value, str):
        return None
    boxed = extract_boxed(value)
    text = value.rpartition("####")[2].strip() if boxed is None else boxed
    return text if normalise(text) is not None else None


def grade(answer: object, reference: object) -> bool | None:
    """Whether an answer equals the reference once both are normalised.

    None only where the reference cannot be graded (None, empty, too long, neither text nor number). No answer is False.
    """
    gold = normalise(reference_text(reference))
    if gold is None:
        return None
    return isinstance(answer, str) and normalise(answer) == gold
