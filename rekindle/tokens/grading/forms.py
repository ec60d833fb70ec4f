r"""Ways of writing an answer that math-verify misreads, rewritten or told apart before it is asked. Linear, no parsing.

Repeating decimals (it reads `0.\overline{3}` as 0), lists that are joined by words, units, and rounded values.
"""

from __future__ import annotations

import re
from fractions import Fraction

_OPENING = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|textrm|mbox)\s*\{")
TEXT = re.compile(_OPENING.pattern + r"([^{}]*)\}")
WORD = re.compile(r"[^\W\d_]+")
COMMA = re.compile(r"(?<!\\),(?!\s*[0-9]{3}(?![0-9]))")
"""A comma that separates: not one of a number's thousands, not LaTeX's space."""
_REPEATING = re.compile(r"(?<![\d.])(\d{0,20})\.(\d{0,20})\\overline\s*\{\s*(\d{1,20})\s*\}")
# Begins at a comma or where no white space stands before, or a run of white space would be read once from each place.
_JOINING = re.compile(
    r"(?:,|(?<!\s))\s*(?:\\(?:text|mathrm|textrm|mbox)\s*\{\s*(?:,\s*)?(?:or|and)\s*\}|\\lor(?![a-z]))"
)
_MEASURED = re.compile(
    r"[^\\a-zA-Z]*(?:\\[dt]?frac\s*\{\d+\}\s*\{\d+\}\s*)?\\(?:text|mathrm|textrm|mbox)\s*\{[a-zA-Z .]+\}"
)
_POWER = re.compile(r"(\\(?:text|mathrm|textrm|mbox)\s*\{[^{}]*\})\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)")
_ROUNDED = re.compile(r"(.+)\\approx\s*(-?(?:\d+\.?|\d*\.\d+))\s*", re.DOTALL)
_UNIT_WORDS = """
mm cm dm m km in inch inches ft foot feet yd yard yards mi mile miles g kg mg lb lbs pound pounds oz ounces ton tons
s sec second seconds min minute minutes h hr hrs hour hours day days week weeks month months year years l ml liter
liters litre litres gallon gallons meter meters metre metres kilometers centimeters mph kmh per square sq cubic unit
units degree degrees rad radian radians deg dollar dollars cent cents euro euros percent hz n j w v a pa k c f mol
"""
UNITS = frozenset(_UNIT_WORDS.split())
_HEDGE_WORDS = """
or and but not no nor neither either else maybe perhaps possibly probably rather instead otherwise alternatively is are
was isn wrong incorrect false true right correct answer actually also then if unless except approximately about around
almost nearly less more than plus minus times over divided by squared cubed power root factorial negative pi infinity
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million millions
billion billions trillion dozen dozens half halves third thirds quarter quarters fourth fifth tenth hundredth point
"""
_HEDGES = frozenset(_HEDGE_WORDS.split())
_MOST_WORDS = 5
"""Words of a unit: "5\\text{ red apples per day}"."""


def repeating(text: str) -> str:
    r"""The text with `a.b\overline{c}` as the fraction that it is."""

    def exact(found: re.Match[str]) -> str:
        whole, fixed, again = found.groups()
        above = int(whole + fixed + again) - int((whole + fixed) or "0")
        value = Fraction(above, 10 ** len(fixed) * (10 ** len(again) - 1))
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    return _REPEATING.sub(exact, text)


def is_list(reference: str) -> bool:
    """Whether several values are asked for: commas that separate, and no bracket around all."""
    plain = reference.strip().strip("$").replace("\\left", "").replace("\\", "").lstrip()
    return COMMA.search(reference) is not None and plain[:1] not in ("(", "[", "{")


def listed(answer: str) -> str:
    r"""A list whose values words join (`1 \text{ or } 2`), with commas."""
    return _JOINING.sub(",", answer)


def values(answer: str) -> list[str]:
    """The values of a list, split at its commas outside of brackets."""
    out, depth, start = [], 0, 0
    commas = {found.start() for found in COMMA.finditer(answer)}
    for place, character in enumerate(answer):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and place in commas:
            out.append(answer[start:place])
            start = place + 1
    return [*out, answer[start:]]


def rounded(answer: str) -> tuple[str, Fraction, Fraction] | None:
    r"""(exact value, shown one, half a unit of its last digit) of `x \approx 1.29`; None of anything else."""
    found = _ROUNDED.fullmatch(answer)
    if found is None or "approx" in found[1]:
        return None
    digits = found[2].rstrip(".").partition(".")[2]
    return found[1].strip(), Fraction(found[2].rstrip(".")), Fraction(1, 2 * 10 ** len(digits))


def mixed(text: str) -> bool:
    r"""Whether numbers stand before and after a word (`7\text{ h }30`), of which math-verify takes the first."""
    plain = _POWER.sub(r"\1", text)
    return any(
        any(map(str.isdigit, plain[: word.start()])) and any(map(str.isdigit, plain[word.end() :]))
        for word in list(TEXT.finditer(plain))[:20]
    )


def unread(answer: str) -> bool:
    r"""Whether a `\text{` does not close before the next brace: what stands in it cannot be told."""
    return len(_OPENING.findall(answer)) != len(TEXT.findall(answer))


def added_words(reference: str, answer: str) -> set[str]:
    r"""Words of `\text{...}` in an answer that are no unit and not the reference's.

    After a bare number any few words are a unit ("5 apples"), but for numbers in words and what takes a value back.
    """
    said = [word.lower() for text in TEXT.findall(answer) for word in WORD.findall(text)]
    added = set(said) - UNITS - {word.lower() for word in WORD.findall(reference)}
    if _MEASURED.fullmatch(answer.strip()) and len(said) <= _MOST_WORDS and any(map(str.isdigit, answer)):
        return added & _HEDGES
    return added
