"""Four ways of working out an arithmetic expression in writing, and strict readers of each.

An expression is a sum of signed terms; a term is a number or a product of two. For `5*9+3*5-2`:

A  one operation at a time, in any legal order         3*5=15;5*9=45;15-2=13;45+13=58
B  products first, then left to right                  [5*9=45,3*5=15]45+15=60,60-2=58
C  positives and negatives summed apart                (45+15=60)(-2)60-2=58
D  a running total, term by term                       >+5*9=45,+3*5=60,-2=58

A writer works with a hand that may slip, and ends in what it then takes for the answer. A reader returns the order of
operations only if every written step is legal and true; else None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from rekindle.tokens.tasks.expressions import (
    Hand,
    Move,
    Term,
    Terms,
    exact,
    follow,
    moves,
    number,
    read_terms,
    total,
    write_terms,
)

Written = tuple[str, int]
"""The steps, and the answer that they end in."""

_ENTRY = re.compile(r"([+-])([0-9]{1,9}(?:\*[0-9]{1,9})?)=(-?[0-9]{1,9})")
_GROUP = re.compile(r"\(([^()]*)\)")


def _equation(move: Move) -> str:
    return move.equation


def _rest(move: Move) -> str:
    return write_terms(move.after)


def _write_one(terms: Terms, rng: Random, hand: Hand) -> Written:
    written = []
    while choices := moves(terms, hand):
        move = rng.choice(choices)
        terms = move.after
        written.append(move.equation)
    return ";".join(written), total(terms)


def _read_one(terms: Terms, text: str) -> str | None:
    return follow(terms, text.split(";"), _equation)


def _worked(terms: Terms, hand: Hand) -> Terms:
    """The terms with every product worked out."""
    return tuple(Term(t.sign, (hand(t.size),)) if t.product else t for t in terms)


def _left_to_right(terms: Terms, hand: Hand = exact) -> Written:
    running, equations = terms[0].value, []
    for term in terms[1:]:
        after = hand(running + term.value)
        equations.append(f"{running}{'-' if term.sign < 0 else '+'}{term.size}={after}")
        running = after
    return ",".join(equations), running


def _write_products(terms: Terms, rng: Random, hand: Hand) -> Written:
    worked = _worked(terms, hand)
    products = [f"{t.body}={w.size}" for t, w in zip(terms, worked, strict=True) if t.product]
    rng.shuffle(products)
    equations, answer = _left_to_right(worked, hand)
    return f"[{','.join(products)}]{equations}", answer


def _read_products(terms: Terms, text: str) -> str | None:
    head, closed, rest = text.removeprefix("[").partition("]")
    if not text.startswith("[") or not closed or rest != _left_to_right(terms)[0]:
        return None
    listed = head.split(",") if head else []
    return _order([f"{t.body}={t.size}" if t.product else "" for t in terms], listed)


def _order(items: Sequence[str], written: Sequence[str]) -> str | None:
    """The places in `items` of the texts `written`, if those are all the non-empty items in some order."""
    left = {i: item for i, item in enumerate(items) if item}
    places = []
    for text in written:
        place = next((i for i, item in left.items() if item == text), None)
        if place is None:
            return None
        del left[place]
        places.append(str(place))
    return ".".join(places) if not left else None


def _parts(terms: Terms, hand: Hand = exact) -> dict[str, Terms]:
    """The worked terms by sign, "p" and "n"; a sign that does not occur is left out."""
    worked = _worked(terms, hand)
    parts = {"p": tuple(t for t in worked if t.sign > 0), "n": tuple(t for t in worked if t.sign < 0)}
    return {sign: part for sign, part in parts.items() if part}


def _sum_up(part: Terms, hand: Hand) -> Written:
    running, written = part[0].value, [write_terms(part)]
    for i, term in enumerate(part[1:], start=2):
        running = hand(running + term.value)
        written.append(write_terms((number(running), *part[i:])))
    return f"({'='.join(written)})", running


def _difference(plus: int, minus: int, hand: Hand = exact) -> Written:
    answer = hand(plus + minus)
    return f"{plus}-{-minus}={answer}", answer


def _write_apart(terms: Terms, rng: Random, hand: Hand) -> Written:
    sums = {sign: _sum_up(part, hand) for sign, part in _parts(terms, hand).items()}
    if len(sums) < 2:
        return next(iter(sums.values()))
    groups = [text for text, _ in sums.values()]
    rng.shuffle(groups)
    end, answer = _difference(sums["p"][1], sums["n"][1], hand)
    return "".join(groups) + end, answer


def _read_apart(terms: Terms, text: str) -> str | None:
    parts = _parts(terms)
    end = _difference(total(parts["p"]), total(parts["n"]))[0] if len(parts) == 2 else ""
    groups = _GROUP.findall(text)
    if text != "".join(f"({g})" for g in groups) + end or len(groups) != len(parts):
        return None
    names = []
    for group in groups:
        first, *rest = group.split("=")
        sign = next((s for s, part in parts.items() if write_terms(part) == first), None)
        order = follow(parts.pop(sign), rest, _rest) if sign else None
        if order is None:
            return None
        names.append(f"{sign}{order}")
    return "".join(names)


def _write_running(terms: Terms, rng: Random, hand: Hand) -> Written:
    ordered = terms if rng.random() < 0.5 else terms[::-1]
    running, entries = 0, []
    for term in ordered:
        running = hand(running + term.value)
        entries.append(f"{'-' if term.sign < 0 else '+'}{term.body}={running}")
    return ">" + ",".join(entries), running


def _read_running(terms: Terms, text: str) -> str | None:
    running, listed = 0, []
    for entry in text.removeprefix(">").split(","):
        match = _ENTRY.fullmatch(entry)
        term = read_terms(match[1].removeprefix("+") + match[2]) if match else None
        if match is None or term is None:
            return None
        running += term[0].value
        if match[3] != str(running):
            return None
        listed.append(match[1] + match[2])
    return _order([("-" if t.sign < 0 else "+") + t.body for t in terms], listed)


@dataclass(frozen=True)
class Way:
    """A way of working. `write(terms, rng, hand)` gives its steps and answer, `read(terms, text)` the order or None.

    opening: a pattern of the first character, by which the way of any text, right or wrong, is told.
    """

    opening: str
    write: Callable[[Terms, Random, Hand], Written]
    read: Callable[[Terms, str], str | None]


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "A": Way("[-0-9]", _write_one, _read_one),
        "B": Way(r"\[", _write_products, _read_products),
        "C": Way(r"\(", _write_apart, _read_apart),
        "D": Way(">", _write_running, _read_running),
    }
)


def way_of(text: str) -> str | None:
    """The name of the way that `text` opens with, None where it is none."""
    return next((name for name, way in WAYS.items() if re.match(way.opening, text)), None)
