"""Tests of a program as data: what is asked of it, and how its answer is judged where it cannot see.

An `assert` is taken apart. Its calls of the program become questions; the rest (literals, comparisons and a few
functions such as `sorted`) is worked out here from the answers, by walking the syntax tree. Whatever else stands in a
test would have to be asked of the program, which could define it as it likes: such a test is refused.
"""

from __future__ import annotations

import ast
import builtins
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        f.__name__: f
        for f in (set, frozenset, sorted, list, tuple, dict, len, abs, round, sum, min, max, str, int, float, bool)
    }
    | {f.__name__: f for f in (isinstance, all, any)}
    | {"isclose": math.isclose}
    | {f"math.{f.__name__}": f for f in (math.isclose, math.fabs, math.floor, math.ceil, math.sqrt, math.isnan)}
)


def _of_numbers(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(a: Any, b: Any) -> Any:
        if not isinstance(a, numbers.Number) or not isinstance(b, numbers.Number):
            raise TypeError("no numbers")
        return work(a, b)

    return checked


_OPERATORS: Mapping[type, Callable[..., Any]] = MappingProxyType(
    {
        ast.Eq: operator.eq,
        ast.NotEq: operator.ne,
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
        ast.In: lambda a, b: a in b,
        ast.NotIn: lambda a, b: a not in b,
        ast.Is: lambda a, b: type(a) is type(b) and a == b,
        ast.IsNot: lambda a, b: not (type(a) is type(b) and a == b),
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        # Of texts they format, which may take any time.
        ast.Mod: _of_numbers(operator.mod),
        ast.FloorDiv: _of_numbers(operator.floordiv),
        ast.USub: operator.neg,
        ast.UAdd: operator.pos,
        ast.Not: operator.not_,
    }
)


@dataclass(frozen=True)
class Test:
    """One test. stdin and output: of a script; else an assertion whose `calls` the program answers, in order, or one
    call and the values `wanted`, one of which it must give."""

    stdin: str = ""
    output: str | None = None
    assertion: ast.expr | None = None
    calls: tuple[str, ...] = ()
    wanted: tuple[Any, ...] = ()


def questions(node: ast.expr) -> list[ast.expr]:
    """The calls in an expression that only the program can answer, from left to right."""
    if asked(node):
        return [node]
    return [question for part in _parts(node) for question in questions(part)]


def asked(node: ast.expr) -> bool:
    """Whether this is the call of a function of the program by its name, or of a method of its `Solution()`."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return ast.unparse(node.func.value) == "Solution()"
    return isinstance(node.func, ast.Name) and node.func.id not in _FUNCTIONS and not hasattr(builtins, node.func.id)


def refuse(node: ast.expr, imported: frozenset[str]) -> None:
    """ValueError for what can neither be worked out here nor be asked of the program without trusting it."""
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported
    inner = any(questions(part) for part in _parts(node)) if asked(node) else False
    if (not asked(node) and not _plain(node)) or inner or (named and asked(node)):
        raise ValueError(
            f"a test holds {ast.unparse(node)[:60]!r}, which the program itself would have to judge: compare a call of "
            "a function of the program, with literal arguments, by operators, sorted, set, len, abs, math.isclose, ..."
        )
    for part in _parts(node):
        refuse(part, imported)


def _parts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        return [*node.args, *(keyword.value for keyword in node.keywords)]
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]


def _plain(node: ast.expr) -> bool:
    """Whether the topmost node is one that is worked out here."""
    if isinstance(node, ast.Call):
        return _function(node.func) is not None and all(keyword.arg for keyword in node.keywords)
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return type(node.op) in _OPERATORS
    if isinstance(node, ast.Dict):
        return None not in node.keys
    kinds = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Compare, ast.BoolOp, ast.Subscript, ast.Slice)
    return isinstance(node, kinds)


def _function(node: ast.expr) -> Callable[..., Any] | None:
    return _FUNCTIONS.get(ast.unparse(node)) if isinstance(node, ast.Name | ast.Attribute) else None


def holds(test: Test, answers: list[Any]) -> bool:
    """Whether the assertion is true with these answers to its calls. False also where it cannot be worked out."""
    try:
        if test.assertion is None:
            return any(_listed(answers[0]) == want for want in test.wanted)
        left = dict(zip(map(id, questions(test.assertion)), answers, strict=True))
        return bool(_value(test.assertion, left))
    # Deep values are compared by recursion.
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError, RecursionError):
        return False


def _listed(value: Any) -> Any:
    """A value as JSON would give it: lists for tuples."""
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return {key: _listed(item) for key, item in value.items()} if isinstance(value, dict) else value


def _value(node: ast.expr, answers: Mapping[int, Any]) -> Any:
    def of(child: ast.expr | None) -> Any:
        return None if child is None else _value(child, answers)

    if id(node) in answers:
        return answers[id(node)]
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple() | ast.Set():
            return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](map(of, node.elts))
        case ast.Dict():
            return dict(zip(map(of, node.keys), map(of, node.values), strict=True))
        case ast.UnaryOp():
            return _OPERATORS[type(node.op)](of(node.operand))
        case ast.BinOp():
            return _OPERATORS[type(node.op)](of(node.left), of(node.right))
        case ast.BoolOp():
            return (all if isinstance(node.op, ast.And) else any)(bool(of(v)) for v in node.values)
        case ast.Compare():
            sides = [of(node.left), *map(of, node.comparators)]
            return all(_OPERATORS[type(op)](*sides[i : i + 2]) for i, op in enumerate(node.ops))
        case ast.Subscript():
            return of(node.value)[of(node.slice)]
        case ast.Slice():
            return slice(of(node.lower), of(node.upper), of(node.step))
        case ast.Name():
            return _FUNCTIONS[node.id]
        case ast.Call():
            function = _function(node.func)
            assert function is not None
            return function(*map(of, node.args), **{str(k.arg): of(k.value) for k in node.keywords})
    raise TypeError(f"{type(node).__name__} is not worked out here")


def decoded(value: Any) -> Any:
    """What `candidate.encoded` wrote; ValueError for what is no plain data."""
    if value is None or isinstance(value, bool | str):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("no encoded value")
    kind, content = next(iter(value.items()))
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "dict":
        return {decoded(k): decoded(v) for k, v in content}
    if kind in ("list", "tuple", "set", "frozenset"):
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(decoded, content))
    raise ValueError(f"the program returned a {content}, which is no plain data")
