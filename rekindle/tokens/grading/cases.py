"""The tests of a row, in the layouts that data sets use, read into what `asserts.py` asks and judges."""

from __future__ import annotations

import ast
import json
from typing import Any

from rekindle.tokens.grading.asserts import Test, asked, questions, refuse

_MEANT = 'give {"input": ..., "output": ...}, {"call": ..., "output": ...} or assert lines'


def read_tests(text: str) -> list[Test]:
    """The tests of a row: a JSON list, verl's {"inputs", "outputs", "fn_name"}, or assert lines.

    ValueError, a sentence, where there is none, or one that any program would pass.
    """
    try:
        data = json.loads(text)
    except ValueError:
        data = text
    if isinstance(data, dict) and isinstance(data.get("inputs"), list) and isinstance(data.get("outputs"), list):
        data = _columns(data)
    items = data if isinstance(data, list) else [data]
    tests = [test for item in items for test in _read(item)]
    if not tests:
        raise ValueError(f"there are no tests: {_MEANT}")
    return tests


def _columns(data: dict[str, Any]) -> list[dict[str, Any]]:
    name, given, wanted = data.get("fn_name"), data["inputs"], data["outputs"]
    if len(given) != len(wanted):
        raise ValueError(f"the tests have {len(given)} inputs and {len(wanted)} outputs")
    if not name:
        return [{"input": one, "output": want} for one, want in zip(given, wanted, strict=True)]
    return [_call(str(name), one, want) for one, want in zip(given, wanted, strict=True)]


def _call(name: str, given: Any, want: Any) -> dict[str, Any]:
    """A call by its arguments: a list, or a text of one JSON value a line (LiveCodeBench), as the value is then."""
    try:
        arguments = [json.loads(line) for line in given.splitlines() if line] if isinstance(given, str) else given
        value = json.loads(want) if isinstance(given, str) and isinstance(want, str) else want
    except ValueError:
        raise ValueError(f"the input of {name} is {str(given)[:60]!r}: write one JSON value a line") from None
    if not isinstance(arguments, list):
        raise ValueError(f"the input of {name} is {str(given)[:60]!r}: give the list of its arguments")
    return {
        "call": f"{name}({', '.join(map(repr, arguments))})",
        "output": value,
        "wrapped": not isinstance(given, str),
    }


def _read(item: Any) -> list[Test]:
    if isinstance(item, str):
        return _asserts(item)
    if not isinstance(item, dict) or "output" not in item or not {"input", "call"} & item.keys():
        raise ValueError(f"a test is {str(item)[:60]!r}: {_MEANT}")
    if "call" in item:
        return [_called(str(item["call"]), item["output"], item.get("wrapped") is True)]
    if not isinstance(item["input"], str) or not isinstance(item["output"], str):
        raise ValueError("the input and output of a test are no texts: write them as the program reads and prints them")
    if not item["output"].strip():
        raise ValueError("a test expects no output, which any program that does nothing gives: drop it")
    return [Test(stdin=item["input"], output=item["output"])]


def _called(call: str, want: Any, wrapped: bool) -> Test:
    """wrapped: a list of one value stands for that value, too, as in APPS."""
    node = _parsed(call, "eval").body
    if not asked(node):
        raise ValueError(f"the call {call[:60]!r} is no call of one function of the program")
    refuse(node, frozenset())
    return Test(
        calls=(call,), wanted=(want, *want) if wrapped and isinstance(want, list) and len(want) == 1 else (want,)
    )


def _parsed(text: str, mode: str) -> Any:
    try:
        return ast.parse(text, mode=mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"a test is no Python ({type(error).__name__}): {_MEANT}") from None


def _asserts(text: str) -> list[Test]:
    body = _parsed(text, "exec").body
    imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    other = [s for s in body if not isinstance(s, ast.Assert | ast.Import | ast.ImportFrom)]
    if other:
        raise ValueError(f"a test holds {ast.unparse(other[0])[:60]!r}: write assert lines without other statements")
    # The program stands in the place of a module of that name.
    foreign = [s for s in imports if not (isinstance(s, ast.ImportFrom) and s.module == "solution")]
    names = frozenset(alias.asname or alias.name for s in foreign for alias in s.names)
    return [_assertion(s.test, names) for s in body if isinstance(s, ast.Assert)]


def _assertion(node: ast.expr, imported: frozenset[str]) -> Test:
    text = ast.unparse(node)[:60]
    if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
        raise ValueError(f"the test {text!r} is a {type(node).__name__.lower()}, which always holds: assert its parts")
    refuse(node, imported)
    calls = questions(node)
    if not calls:
        raise ValueError(f"the test {text!r} asks the program nothing: call one of its functions")
    for part in ast.walk(node):
        if isinstance(part, ast.Compare) and all(questions(side) for side in (part.left, *part.comparators)):
            raise ValueError(f"the test {text!r} compares the program with itself: state the value")
    return Test(assertion=node, calls=tuple(ast.unparse(call) for call in calls))
