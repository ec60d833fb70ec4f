"""Answers that reasoning-gym's scorers would run: none is run, no score is changed by one, and the right ones count."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rekindle.tokens.grading.gym import score
from rekindle.tokens.grading.harmless import ALGEBRA, ARITHMETIC, LITERAL, harmless
from rekindle.tokens.tasks.reasoning_gym import EXCLUDED, task

factory = pytest.importorskip("reasoning_gym.factory")
GUARDED = sorted(LITERAL | ARITHMETIC | ALGEBRA)
EVALUATE = {"eval", "exec", "compile", "__import__", "parse_expr", "sympify", "S", "parse_latex", "lambdify"}
OWN_TEXT_ALONE = {"number_sorting", "bitwise_arithmetic"}
"""Their scorers evaluate the item's own text and never the answer."""


def payloads(marker: Path) -> list[str]:
    """Answers each of which would write to `marker` or change the scorer."""
    write = f"open({str(marker)!r}, 'w').write('x')"
    spelled = "+".join(f"chr({ord(c)})" for c in write)
    return [
        write,
        f"[{write}]",
        f"[[{write}]]",
        f"eval({spelled})",
        f"exec({spelled})",
        f"(lambda: {write})()",
        f"[x for x in [{write}]]",
        f"f'{{{write}}}'",
        "setattr(__import__('rekindle.tokens.grading.gym').tokens.grading.gym, 'score', lambda *a: 1.0)",
        f"sqrt.__globals__['__builtins__']['open']({str(marker)!r}, 'w')",
        f"sqrt.__globals__['__builtins__']['__import__']('os').mkdir({str(marker)!r})",
        f"S({write!r})",
        f"x.__class__.__init__.__globals__['__builtins__']['open']({str(marker)!r}, 'w')",
        f"1 if {write} else 2",
        f"({write}, 1)[1]",
        f"{write} #",
        f"2 +\n{write}",
    ]


@pytest.mark.parametrize("name", GUARDED)
def test_no_answer_is_run_and_later_ones_are_graded_as_before(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    made = task(f"rg:{name},size=3,heldout=0,ood=0")
    made.workers = 1
    rows = made.split("train")
    try:
        bad = made.grade_rows([f"<answer>{text}</answer>" for text in payloads(marker)], [rows[0]] * 17)
        wrong = made.grade_rows(["<answer>nonsense</answer>", "<answer>1 2</answer>"], rows[1:])
        right = made.grade_rows([f"<answer>{row.answer}</answer>" for row in rows], rows)
    finally:
        made.close()
    assert not marker.exists()
    assert [(g.success, g.status, g.info["score"]) for g in bad] == [(False, "ok", 0.0)] * len(bad)
    assert [g.success for g in wrong] == [False, False] and [g.success for g in right] == [True] * 3


@pytest.mark.parametrize("name", GUARDED)
def test_gold_answers_are_read(name: str) -> None:
    items = factory.create_dataset(name, size=12, seed=3)
    assert all(score(name, "{}", items[i]["answer"].strip(), items[i]) >= 1 for i in range(12))


def entry(answer: str = "?", **metadata: Any) -> dict[str, Any]:
    return {"question": "", "answer": answer, "metadata": metadata}


@pytest.mark.parametrize(
    ("name", "answer", "read"),
    [
        ("spiral_matrix", "[1, 2, -3]", True),
        ("spiral_matrix", "1 2 3", False),
        ("string_insertion", "['A', 'B']", True),
        ("string_insertion", "list('AB')", False),
        ("n_queens", "[['_', 'Q']]", True),
        ("n_queens", "[" * 3000, False),
        ("countdown", "65*(25 - 19) - 94/2", True),
        ("countdown", "-3 + 4", True),
        ("countdown", "2**3", False),
        ("countdown", "7//2", False),
        ("countdown", "0x18 + 1", False),
        ("countdown", "1e3", False),
        ("countdown", "4!", False),
        ("countdown", "24 # 1 2", False),
        ("countdown", "sqrt(4)", False),
        ("countdown", "1+" * 3000 + "1", False),
        ("simple_integration", "43*X**2/4 + C", True),
        ("simple_integration", "-0.5*x**(3/2) + .25*x + 2.", True),
        ("intermediate_integration", "E**(-3*x**2 + 12345*x)*sqrt(x)/3 + log(Abs(x))", True),
        ("intermediate_integration", "(2*x + 9)**10 + atan(x) + pi", True),
        ("intermediate_integration", "Integral(2*x, x)", False),
        ("intermediate_integration", "integrate(2*x)", False),
        ("intermediate_integration", "x.diff", False),
        ("intermediate_integration", "1..real", False),
        ("intermediate_integration", "1.real", False),
        ("intermediate_integration", "lambda x", False),
        ("intermediate_integration", "x if x else x", False),
        ("intermediate_integration", "x__x", False),
        ("intermediate_integration", "S(x)", False),
        ("polynomial_multiplication", "12*x**20*y - 3*z", True),
        ("polynomial_multiplication", "expand(x*(x+1))", False),
        ("polynomial_multiplication", "9**9**9", False),
        ("polynomial_multiplication", "((9**99)**99)**99", False),
        ("polynomial_multiplication", "x**99999", False),
        ("polynomial_multiplication", "9**(x - x + 9**9)", False),
        ("polynomial_multiplication", "9**(1/0.0001)", False),
        ("polynomial_multiplication", "x", True),
        ("polynomial_multiplication", "x\xa0+ 1", False),
        ("polynomial_multiplication", "ｅval(x)", False),
        ("polynomial_multiplication", "(" * 900 + "x" + ")" * 900, False),
        ("polynomial_multiplication", "-" * 4000 + "x", False),
    ],
)
def test_what_is_read(name: str, answer: str, read: bool) -> None:
    assert harmless(name, answer, entry()) is read


def test_the_items_own_answers_and_variables_are_read() -> None:
    assert harmless("n_queens", "Q _", entry(valid_answers=["Q _\n", "_ Q"]))
    assert harmless("intermediate_integration", "Integral(x, x)", entry("Integral(x, x)"))
    assert harmless("polynomial_multiplication", "alpha + 1", entry(variables=["alpha"]))
    assert not harmless("polynomial_multiplication", "eval(1)", entry(variables=["eval"]))
    assert harmless("chain_sum", "anything(1)", entry())


def called(start: ast.AST) -> Iterator[str]:
    """The names of all that is called or handed on in a piece of code, however it is reached."""
    for node in ast.walk(start):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def evaluates(kind: type) -> set[str]:
    """What a scorer reaches of `EVALUATE`, through the package's own functions and methods."""
    todo: list[Any] = [kind.score_answer]  # type: ignore[attr-defined]
    seen, found = set(), set()
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        module = sys.modules[function.__module__]
        for name in called(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            inner = within(name, kind, module)
            todo += inner
            found |= {name} if name in EVALUATE and not inner else set()
    return found


def within(name: str, kind: type, module: ModuleType) -> list[Any]:
    """The functions written in the package that a name may mean."""
    meant = [getattr(kind, name, None), getattr(module, name, None)]
    meant += [m for value in meant if inspect.isclass(value) for m in vars(value).values()]
    plain = [getattr(value, "__func__", value) for value in meant]
    written = [f for f in plain if inspect.isfunction(f) and "<" not in inspect.unwrap(f).__code__.co_filename]
    return [f for f in written if f.__module__.startswith("reasoning_gym")]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_tables_name_every_installed_scorer_that_evaluates() -> None:
    found = {name: what for name, (kind, _) in factory.DATASETS.items() if (what := evaluates(kind))}
    assert found.keys() - EXCLUDED.keys() == {*GUARDED, *OWN_TEXT_ALONE}, found
    assert {name for name in GUARDED if found[name] == {"eval"}} == LITERAL


class Indirect:
    """A scorer that hands the answer on."""

    def score_answer(self, answer: str) -> Any:
        return self._inner(answer)

    def _inner(self, answer: str) -> Any:
        return list(map(eval, [answer]))


Indirect._inner.__module__ = "reasoning_gym.factory"


def test_a_scorer_that_evaluates_is_found() -> None:
    assert evaluates(Indirect) == {"eval"}


def test_odd_literals_are_not_warned_of() -> None:
    entry: dict[str, Any] = {"answer": "1", "metadata": {"variable": "x"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert harmless("spiral_matrix", "[1if 1else 2]", entry) is False
        assert harmless("spiral_matrix", "0x1for x in y", entry) is False
    with pytest.warns(SyntaxWarning):
        compile("[1if 1else 2]", "x", "eval")
