"""Sums of signed terms, where a term is a number or a product of two, and the legal operations on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from random import Random

_TERM = re.compile(r"([+-]?)([0-9]{1,9})(?:\*([0-9]{1,9}))?")


@dataclass(frozen=True)
class Term:
    """A signed term: `sign` is 1 or -1, `factors` holds one number or the two of a product."""

    sign: int
    factors: tuple[int, ...]

    @property
    def size(self) -> int:
        """The term's number, without its sign."""
        return self.factors[0] * (self.factors[1] if len(self.factors) == 2 else 1)

    @property
    def value(self) -> int:
        """The term's number with its sign."""
        return self.sign * self.size

    @property
    def product(self) -> bool:
        """Whether it is a product that has not been worked out."""
        return len(self.factors) == 2

    @property
    def body(self) -> str:
        """The term as written, without its sign."""
        return "*".join(str(f) for f in self.factors)


Terms = tuple[Term, ...]
Hand = Callable[[int], int]
"""What is written as the result of an operation whose true result is given."""


def exact(value: int) -> int:
    """A hand that never slips."""
    return value


def slipping(rng: Random, rate: float) -> Hand:
    """A hand that with probability `rate` writes a result off by one or by ten, and goes on from there."""

    def hand(value: int) -> int:
        if rng.random() >= rate:
            return value
        wrong = value + rng.choice((-10, -1, 1, 10))
        return abs(wrong) if value >= 0 else wrong

    return hand


def number(value: int) -> Term:
    """`value` as a term; zero is positive."""
    return Term(-1 if value < 0 else 1, (abs(value),))


def read_terms(text: str) -> Terms | None:
    """The terms of an expression, None where `text` is not one. The inverse of `write_terms`."""
    terms = []
    for match in _TERM.finditer(text):
        factors = tuple(int(f) for f in match.groups()[1:] if f is not None)
        terms.append(Term(-1 if match[1] == "-" else 1, factors))
    return tuple(terms) if terms and write_terms(tuple(terms)) == text else None


def write_terms(terms: Terms) -> str:
    """The expression in writing, without white space and without a plus at its start."""
    return "".join(("-" if t.sign < 0 else "+") + t.body for t in terms).removeprefix("+")


def total(terms: Terms) -> int:
    """The value of an expression."""
    return sum(t.value for t in terms)


def rearranged(terms: Terms) -> Iterator[Terms]:
    """The same terms in every other order that begins with a positive one, the factors of products in both orders.

    Every one has the value of `terms`; the first ones differ the most.
    """
    for order in permutations(reversed(terms)):
        swaps = [(t.factors[::-1], t.factors) if len(set(t.factors)) == 2 else (t.factors,) for t in order]
        for factors in product(*swaps) if order[0].sign > 0 else ():
            other = tuple(Term(t.sign, f) for t, f in zip(order, factors, strict=True))
            if other != terms:
                yield other


@dataclass(frozen=True)
class Move:
    """A legal operation: `*i` works out term i, `+i` adds the signed terms i and i+1. `equation` is it in writing."""

    name: str
    equation: str
    after: Terms


def moves(terms: Terms, hand: Hand = exact) -> list[Move]:
    """Every legal operation on `terms`, products first, with results as `hand` writes them."""
    out = []
    for i, term in enumerate(terms):
        if term.product:
            size = hand(term.size)
            after = (*terms[:i], Term(term.sign, (size,)), *terms[i + 1 :])
            out.append(Move(f"*{i}", f"{term.body}={size}", after))
    for i, (left, right) in enumerate(pairwise(terms)):
        if not (left.product or right.product):
            added = hand(left.value + right.value)
            equation = f"{left.value}{'-' if right.sign < 0 else '+'}{right.size}={added}"
            out.append(Move(f"+{i}", equation, (*terms[:i], number(added), *terms[i + 2 :])))
    return out


def follow(terms: Terms, written: Sequence[str], text_of: Callable[[Move], str]) -> str | None:
    """The names of the moves that lead from `terms` through every text of `written` to one number; None if none do.

    Where several moves give the same text, the first that lets the rest follow is named: one text has one name.
    """
    choices = moves(terms)
    if not written:
        return None if choices else ""
    for move in choices:
        if text_of(move) == written[0]:
            rest = follow(move.after, written[1:], text_of)
            if rest is not None:
                return move.name + rest
    return None
