"""Which answers a scorer of reasoning-gym may read that evaluates them as Python: only text that can do nothing.

Four scorers call `eval`, five sympy's `parse_expr`, which calls it too. What one of them ran could change how the
worker grades from then on. A scorer in no table here evaluates no answer: a test reads the installed package for that.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

LITERAL = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Their scorers call `eval`: literals are read."""
ARITHMETIC = frozenset({"countdown", "puzzle24"})
"""Their scorers call `parse_expr`: whole numbers with + - * / and brackets are read, which is what they ask for."""
ALGEBRA = frozenset({"intermediate_integration", "polynomial_multiplication", "simple_integration"})
"""Their scorers call `parse_expr`: numbers, variables, powers and `FUNCTIONS` are read."""
FUNCTIONS = frozenset(
    (
        *("exp", "log", "ln", "sqrt", "cbrt", "erf", "Ei", "Si", "Ci", "Abs", "abs"),
        *("sin", "cos", "tan", "cot", "sec", "csc"),
        *("asin", "acos", "atan", "acot", "asec", "acsc"),
        *("sinh", "cosh", "tanh", "coth", "sech", "csch"),
        *("asinh", "acosh", "atanh", "acoth", "asech", "acsch"),
    )
)
_NAMES = FUNCTIONS | frozenset("abcdefghijklmnopqrstuvwxyz") | {"X", "Y", "Z", "C", "E", "I", "pi"}
LONGEST = 5_000
"""Characters of an expression."""
_SPACE = r"[ \t\n]*"
_SUM = re.compile(rf"(?:{_SPACE}(?:[0-9]+(?![\w.])|[-+/()]|\*(?!\*)))+{_SPACE}")
_TOKEN = re.compile(rf"{_SPACE}(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?![\w.])|([A-Za-z]+)(?![\w.])|\*\*|[-+*/()]){_SPACE}")
_EXPONENT, _POWER = 14, 100_000
"""Binary digits of an exponent and of a power at most."""


def harmless(name: str, answer: str, entry: dict[str, Any]) -> bool:
    """Whether the scorer of generator `name` may read an answer to `entry`: it can do nothing but have a value."""
    if name in LITERAL:
        return answer in _known(entry) or _literal(answer)
    if name in ARITHMETIC:
        return answer in _known(entry) or _sum(answer)
    if name in ALGEBRA:
        return answer in _known(entry) or _expression(answer, _variables(entry["metadata"]))
    return True


def _known(entry: dict[str, Any]) -> set[str]:
    """The right answers that the item itself states, none of which a model wrote."""
    stated = {entry["answer"], *entry["metadata"].get("valid_answers", ())}
    return stated | {text.strip() for text in stated}


def _literal(text: str) -> bool:
    try:
        with _quiet():
            ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Python warns of odd literals (`1if`) on stderr, and a model may write as many as it likes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        yield


def _sum(text: str) -> bool:
    return len(text) <= LONGEST and "//" not in text and _SUM.fullmatch(text) is not None


def _variables(metadata: dict[str, Any]) -> frozenset[str]:
    """The item's own variables, which settings may name at will."""
    said = [metadata.get("variable"), *metadata.get("variables", ())]
    names = {str(name) for name in said if name is not None}
    return frozenset(name for name in names if name.isalpha() and not hasattr(builtins, name))


def _expression(text: str, variables: Iterable[str]) -> bool:
    if len(text) > LONGEST:
        return False
    names, at = _NAMES.union(variables), 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (token[1] is not None and token[1] not in names):
            return False
        at = token.end()
    try:
        with _quiet():
            body = ast.parse(text.strip(), mode="eval").body
        return _digits(body) < _POWER
    except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        return False


def _digits(node: ast.expr) -> float:
    """Binary digits that the numerator and the denominator of an expression's value have at most, if powers are
    multiplied out; a variable has none. ValueError where an exponent is too large."""
    match node:
        case ast.Constant():
            value = Fraction(repr(node.value))
            return 1 + math.log2(max(value.numerator, value.denominator))
        case ast.BinOp(op=ast.Pow()):
            base, exponent = _digits(node.left), _digits(node.right)
            symbolic = isinstance(node.left, ast.Name) and any(isinstance(n, ast.Name) for n in ast.walk(node.right))
            if exponent > _EXPONENT and not symbolic:
                raise ValueError("an exponent is too large")
            return base * 2**exponent if base else 0.0
    return math.fsum(_digits(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))
