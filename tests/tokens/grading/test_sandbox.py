"""Programs: what tests mean, and that nothing a program does makes it right, leaves a process, or takes too long."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.grading.asserts import decoded, holds
from rekindle.tokens.grading.barriers import BARRIERS
from rekindle.tokens.grading.cases import read_tests
from rekindle.tokens.grading.equal_code import lines
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.grading.pool import Pool
from rekindle.tokens.grading.sandbox import OUTPUT, Ran
from tests.tokens.grading.exploits import EXPLOITS
from tests.tokens.grading.seen import workers

DOUBLE = "def f(x):\n    return x * 2\n\n\ndef g(x):\n    return [x, 1]\n"


@pytest.fixture(scope="module", autouse=True)
def pool() -> Iterator[None]:
    """Programs run below a worker, as in a run: it ends all that is below itself."""
    POOL.append(Pool(1, deadline=60.0))
    yield
    POOL.pop().close()
    assert not workers()


POOL: list[Pool] = []
BUSY = 4.5
"""Seconds for a limit of one: less than the five that a test may take, and than what hangs."""


def timely(tests: Any, source: str, seconds: float) -> dict[str, Any]:
    """The grade, within BUSY; a machine that stands still is asked again."""
    for _ in range(3):
        began = time.monotonic()
        got = grade(tests, source, seconds)
        if time.monotonic() - began < BUSY:
            return got
    raise AssertionError(f"{BUSY} s are over each time")


def alone() -> bool:
    """Whether the worker is alone again; what was killed takes a moment to be gone."""
    last = time.monotonic() + 20
    while len(workers()) != 1 and time.monotonic() < last:
        time.sleep(0.05)
    return len(workers()) == 1


def asked(target: str, *call: Any) -> Any:
    (outcome,) = POOL[0].map(target, [call])
    assert outcome.status == "ok", outcome
    return outcome.value


def grade(tests: Any, source: str, seconds: float = 5.0) -> dict[str, Any]:
    text = tests if isinstance(tests, str) else json.dumps(tests)
    return asked("rekindle.tokens.grading.equal_code:passes", text, source, seconds)


def run(source: str, call: str | None, stdin: str, seconds: float) -> Ran:
    return Ran(**asked("tests.tokens.grading.targets:ran", source, call, stdin, seconds))


@pytest.mark.parametrize(
    ("test", "success"),
    [
        ("assert f(2) == 4", True),
        ("assert f(2) == 5", False),
        ("assert 4 == f(2), 'message'", True),
        ("assert sorted(g(2)) == [1, 2]", True),
        ("assert set(g(3)) == set([1, 3])", True),
        ("assert g(2)[0] == 2", True),
        ("assert abs(f(0.1) - 0.2) < 1e-9", True),
        ("import math\nassert math.isclose(f(0.1), 0.2, rel_tol=1e-6)", True),
        ("assert f(1) in (2, 3)", True),
        ("assert not f(0)", True),
        ("assert f(0)", False),
        ("assert f(1) is None", False),
        ("assert tuple(g(1)) == (1, 1) and f('a') == 'aa'", True),
        ("assert f([1])[-1] == 1", True),
        ("assert f(2) == {'a': 1}", False),
        ("assert f([0] * 2) == [0, 0, 0, 0] and f(-1) == -2", True),
        ("assert isinstance(f(2), int) and not isinstance(f(2), (str, list))", True),
        ("assert all([f(2) == 4, f(3) == 5])", False),
        ("import math\nassert math.fabs(f(2) - 4.1) < 0.2 and f(3) % 4 == 2", True),
        ("from solution import f\nassert f(2) == 4", True),
        ("assert missing(2) == 8", False),
        ("assert f(2) < 'a'", False),
        ({"call": "f(2)", "output": 4}, True),
        ({"call": "g('a')", "output": ["a", 1]}, True),
    ],
)
def test_what_a_test_of_a_function_means(test: Any, success: bool) -> None:
    assert grade([test], DOUBLE)["success"] is success


def test_scripts_are_compared_by_their_lines() -> None:
    source = "if __name__ == '__main__':\n    print(int(input()) * 2, ' ')\n"
    tests = [{"input": "3\n", "output": "6"}, {"input": "4", "output": "8\n\n"}, {"input": "5", "output": "11"}]
    got = grade(tests, source)
    assert got["success"] is False and got["share"] == pytest.approx(2 / 3) and got["tests"] == 3
    assert got["why"] == "another output" and grade(tests[:2], source)["success"] is True
    assert lines("a \nb\n\n") == ["a", "b"] and lines(" a") == [" a"] and lines("") == []
    assert grade([{"input": "", "output": "x"}], "print('x')\nraise SystemExit(1)")["success"] is False


def test_verls_layout() -> None:
    assert grade({"inputs": [[1], [2]], "outputs": [2, 4], "fn_name": "f"}, DOUBLE)["success"] is True
    assert grade({"inputs": ["1", "2"], "outputs": ["1", "2"]}, "print(input())")["success"] is True


def test_calls_in_the_layouts_of_data_sets() -> None:
    add = "def f(a, b):\n    return sum(a) + b\n"
    text = {"inputs": ["[1, 2]\n3"], "outputs": ["6"], "fn_name": "f"}
    assert grade(text, add)["success"] is True and grade({**text, "outputs": ["7"]}, add)["success"] is False
    assert grade({**text, "outputs": ["[6]"]}, add)["success"] is False, "unwrapped only where inputs are lists (APPS)"
    assert grade({"inputs": [[[1, 2], 3]], "outputs": [[6]], "fn_name": "f"}, add)["success"] is True
    assert grade({"inputs": [[[1, 2], 3]], "outputs": [[7]], "fn_name": "f"}, add)["success"] is False
    pair = "def f(a):\n    return {'a': (a, [a, (a,)])}"
    assert grade([{"call": "f(2)", "output": {"a": [2, [2, [2]]]}}], pair)["success"] is True, "JSON has no tuples"
    assert grade(["assert f(2) == {'a': [2, [2, [2]]]}"], pair)["success"] is False, "assert lines have"


def test_methods_of_a_class_solution() -> None:
    source = (
        "class Solution:\n    def f(self, a):\n        return self.g(a) * 2\n    def g(self, a):\n        return a\n"
    )
    assert grade({"inputs": [[2]], "outputs": [4], "fn_name": "f"}, source)["success"] is True
    assert grade(["assert Solution().f(2) == 4", "assert f(3) == 6"], source)["success"] is True
    assert grade(["assert Solution().f(2) == 5"], source)["success"] is False


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ([], "there are no tests"),
        ("", "there are no tests"),
        ("import math", "there are no tests"),
        ([{"input": "1", "output": " \n"}], "expects no output"),
        (["assert f(1) == f(1)"], "compares the program with itself"),
        (["assert 1 == 1"], "asks the program nothing"),
        (["x = f(1)\nassert x == 2"], "holds 'x = f(1)'"),
        (["f(1) =="], "no Python"),
        ([{"input": "1"}], "a test is"),
        ([7], "a test is"),
        ([{"input": 1, "output": 2}], "no texts"),
        (["assert isinstance(f(2), int) and all(x > 0 for x in f(2))"], "would have to judge"),
        (["import numpy as np\nassert np.allclose(f(2), [1, 2])"], "would have to judge"),
        (["from numpy import allclose\nassert allclose(f(2), [1])"], "would have to judge"),
        (["assert set(f(2)).issubset({1, 2})"], "would have to judge"),
        (["assert (f(2) == 4 if True else False)"], "would have to judge"),
        (["assert (lambda r: r == 4)(f(2))"], "would have to judge"),
        (["assert f(2) ** 2 == 16"], "would have to judge"),
        (["assert pow(f(2), 2) == 16"], "would have to judge"),
        (["assert f(2).x == 4"], "would have to judge"),
        (["assert f(f(2)) == 8"], "would have to judge"),
        (["assert f(x) == 8"], "would have to judge"),
        (["assert f'{f(2)}' == '4'"], "would have to judge"),
        (["assert (f(2) == 4, 'bad')"], "always holds"),
        ([{"call": "f(2).x", "output": 4}], "no call of one function"),
        ({"inputs": ["1\nx"], "outputs": ["1"], "fn_name": "f"}, "one JSON value a line"),
        ({"inputs": [{"a": 1}], "outputs": ["1"], "fn_name": "f"}, "the list of its arguments"),
        ({"inputs": [[1]], "outputs": [], "fn_name": "f"}, "1 inputs and 0 outputs"),
    ],
)
def test_tests_that_prove_nothing_are_refused(tests: Any, why: str) -> None:
    got = grade(tests, DOUBLE)
    assert got["success"] is None and why in got["why"]


def test_more_tests_than_the_deadline_holds_are_refused() -> None:
    fits, one_more = (
        json.dumps(["assert f(2) == 4"] * 30),
        json.dumps(["assert f(2) == 4 and f(3) == 6"] * 15 + ["assert f(1)"]),
    )
    check = "rekindle.tokens.grading.equal_code:check"
    assert asked(check, fits, 3.0)["success"] is True and asked(check, one_more)["success"] is True
    why = asked(check, one_more, 3.0)["why"]
    assert why.startswith("31 tests take about 0.1 s each") and "raise grading.deadline to 8, or drop" in why
    assert grade(one_more, DOUBLE, 3.0) == {"success": None, "why": why}
    with contextlib.closing(Grader("code", "boxed", deadline=3.0, workers=1)) as grader:
        (held, refused) = grader.check([fits, one_more])
    assert held.success is True and refused.success is None and refused.info["why"] == why


def test_values_keep_their_types_and_size() -> None:
    many = "[None, True, 1, -(10**5000), 0.1, float('inf'), 'é\\ud800', (1,), {2}, {3: [4]}, frozenset()]"
    source = f"def f(n):\n    return {many}\n"
    ran = run(source, "f(0)", "", 5.0)
    want = [None, True, 1, -(10**5000), 0.1, float("inf"), "é\ud800", (1,), {2}, {3: [4]}, frozenset()]
    got = decoded(ran.value)
    assert got == want and [type(v) for v in got] == [type(v) for v in want]
    with pytest.raises(ValueError, match="no plain data"):
        decoded(run("def f():\n    return object()", "f()", "", 5.0).value)


def test_an_assertion_that_cannot_be_worked_out_does_not_hold() -> None:
    (test,) = read_tests('["assert f(1)[5] == 2"]')
    assert not holds(test, [[1]]) and not holds(test, [None]) and holds(test, [[0] * 5 + [2]])
    (test,) = read_tests('["assert [0] * f(1) == 2"]')
    assert not holds(test, [10**15])
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for text in ('[{"call": "f(2)", "output": 4}]', '["assert f(2) == [[1]]"]', '["assert str(f(2)) == 4"]'):
        (test,) = read_tests(text)
        assert not holds(test, [deep]), "nested too deep to be compared"


FAST = (
    "keeps shared memory",
    "keeps files in memory",
    "keeps messages",
    "leaves at once",
    "equal to all",
    "patches json",
    "writes to every descriptor",
    "kills its group and its parent",
)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.heavy) for name in EXPLOITS]
)
def test_no_exploit_is_a_success(name: str) -> None:
    got = timely(["assert f(2) == 4"], EXPLOITS[name], seconds=1.0)
    assert got["success"] is False and got["share"] == 0.0
    assert alone(), "the worker alone"


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["leaves", "hangs", "prints a verdict", "writes to every descriptor", "forks"])
def test_no_exploit_of_a_script_is_a_success(name: str) -> None:
    got = grade([{"input": "2", "output": "4"}], EXPLOITS[name], seconds=1.0)
    assert got["success"] is False and alone()


def test_after_the_first_that_runs_out_of_time_no_test_is_run() -> None:
    got = timely(
        ["assert f(2) == 4", "assert f(0) == 0", "assert f(0) == 0"],
        "def f(x):\n    while x == 0: pass\n    return 4",
        2.5,
    )
    assert got["share"] == pytest.approx(1 / 3) and got["timeout"] is True


@pytest.mark.parametrize("call", [None, "f(2)"])
def test_a_program_that_ends_while_it_is_looked_at_loses_nothing(call: str | None) -> None:
    source = "import time\ntime.sleep(0.15)\nprint('hello')\nf = lambda x: 4\n"
    ran = Ran(**asked("tests.tokens.grading.targets:ran_under_a_slow_look", source, call))
    assert ran.status == "ok" and (ran.output, ran.answered) == (("hello\n", False) if call is None else ("", True))


def test_a_program_finds_an_empty_place() -> None:
    source = "import os\nprint(dict(os.environ).keys() - {'LC_CTYPE'}, os.listdir('.'), os.getcwd())"
    ran = run(source, None, "", 5.0)
    assert ran.output.split("\n")[0] == "set() ['main.py'] /program", ran
    assert run("import os\nprint(len(os.listdir('/proc/self/fd')) < 9)", None, "", 5.0).output == "True\n"


def test_what_is_cut_off(tmp_path: Path) -> None:
    """Only where the system gives namespaces; docs/grading.md says what holds without."""
    shut = asked("rekindle.tokens.grading.barriers:isolation")
    if not shut["net"] or not shut["files"]:
        pytest.skip("no namespaces here")
    os.chmod(tmp_path, 0o777)
    tried = f"open({str(tmp_path / 'x')!r}, 'w')"
    assert run(tried, None, "", 5.0).status == "failed" and not list(tmp_path.iterdir())
    assert run("print(open('/proc/net/dev').read().count(':'))", None, "", 5.0).output == "1\n", "lo alone"
    assert run("import os\nprint(os.getpid(), os.getppid())", None, "", 5.0).output == "1 0\n"
    ran = run("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", None, "", 5.0)
    assert ran.status == "failed"


def test_output_is_capped_and_input_is_not() -> None:
    assert run("print('x' * 200_000)", None, "", 5.0).status == "output"
    assert len(run(f"print('x' * {OUTPUT - 1}, end='')", None, "", 5.0).output) == OUTPUT - 1
    assert run("import sys\nprint(len(sys.stdin.read()))", None, "y" * 3_000_000, 5.0).output == "3000000\n"


def test_where_there_are_no_namespaces_no_program_runs(tmp_path: Path) -> None:
    """It could end every process of the user."""
    marker = tmp_path / "ran"
    source = f"open({str(marker)!r}, 'w').close()\nf = lambda x: 4"
    pool = Pool(1, deadline=30.0)
    target = "tests.tokens.grading.targets:passes_without_namespaces"
    (outcome,) = pool.map(target, [('["assert f(2) == 4"]', source, str(marker))])
    pool.close()
    assert set(outcome.value["isolation"].values()) == {False} and {*BARRIERS} < outcome.value["isolation"].keys()
    assert outcome.value["ran"] is False and "other processes: allow unshare" in outcome.value["why"]
    assert "unsafe" not in outcome.value["why"], "no option allows this one"
    assert not marker.exists()
