"""What a policy may write to be graded right without being right, or to stop a run: none does, nothing is left."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rekindle.tokens.grading.base import STATUSES, Grade
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.rollouts import Example
from tests.tokens.grading.exploits import EXPLOITS
from tests.tokens.grading.seen import workers

DEADLINE = 3.0
START = 20.0
"""Seconds in which a worker is replaced on a machine that does much besides; it counts towards no deadline."""
RIGHT = {"math": "7", "choice": "B", "json": json.dumps({"properties": {"a": {"type": "integer"}}})}
RIGHT["code"] = '["assert f(2) == 4"]'
SHOWN = {
    "math": r"so \boxed{14/2}",
    "choice": "Answer: B",
    "json": '{"a": 7}',
    "code": "```python\nf = lambda x: 2 * x\n```",
}

HEDGES = [
    "5 or 7",
    "7 or 5",
    "5, 7",
    "7; 5",
    "5/7",
    "5 = 7",
    "x = 5 = 7",
    "x=7, x=5",
    r"5 \to 7",
    r"5 \Rightarrow 7",
    r"5 \implies 7",
    r"5 \approx 7",
    r"5 \sim 7",
    r"5 \equiv 7",
    r"5 \ne 7",
    r"5 \lor 7",
    r"5 \land 7",
    r"5 \cup 7",
    r"\{5,7\}",
    "(5,7)",
    "[5,7]",
    r"7\text{ (or 5)}",
    r"7 \text{ or } 5",
    r"\text{either }5\text{ or }7",
    r"5 \\ 7",
    "5 & 7",
    "5 | 7",
    r"5 \mid 7",
    r"7 \pm 1",
    "5 < 7",
    r"5 \le 7",
    "7 maybe 5",
    "57",
    "75",
    "5 7",
    r"5 \quad 7",
    r"\begin{cases}5\\7\end{cases}",
    r"\begin{matrix}5&7\end{matrix}",
    "5$ $7",
    "7 ? 5",
    "7!",
    "-7",
    "7i",
    "7x",
    "seven",
    "0.7e1x",
    "7^7",
    "log 7",
]
POWERS = [
    "9^{9^{9^9}}",
    "10^{10^{10}}",
    "(10^9)!",
    "2^{123456789}",
    r"\binom{10^9}{10^8}",
    "99999!",
    "7^{7^{7^7}}",
    "((10^9)!)!",
]
SHAPES = [
    "(" * 100_000,
    "{" * 40_000,
    r"\boxed{" * 10_000,
    r"\frac{1}{" * 300,
    r"\sqrt{" * 500 + "7" + "}" * 500,
    "(" * 19 + "7" + ")" * 18,
    "-" * 1999 + "8",
    "1" * 1999,
    "9" * 1999,
    "+".join(["1"] * 900),
    "x" * 1999,
    r"\alpha" * 300,
    "0." + "0" * 1900 + "7",
    ",".join("7" * 900),
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "7\x00",
    "\u202e7",
    "７",
    "७",
    "⁷",
    "Ⅶ",
    "7\u0301",
    "\U0001d7d5",
    "𝟕" * 500,
    "\u200b" * 1000,
    "\ufeff",
    "x" * 1_000_000,
    "\\" * 1999,
    "%" * 1999,
    "$" * 1999,
    "#" * 5000,
    "&" * 1999,
    "^" * 1999,
    "_" * 1999,
    "^{" * 900,
    "|" * 1999,
    "__import__('os').system('true')",
    "exit()",
    "os._exit(0)",
    "lambda: 7",
    "eval('7')",
    r"\input{/etc/passwd}",
    r"\def\x{7}\x",
    "\\newcommand{\\a}{7}\\a",
    "NaN",
    "inf",
    r"\infty",
    "None",
    "True",
    "",
    " ",
    "\n",
    "\\boxed{",
    "}",
    "7}{",
    "${",
    "\\text{" * 300,
]
PAYLOADS = [
    "",
    "7",
    "null",
    "[]",
    "{}",
    '{"a": "7"}',
    '{"a": 7, "b": 1}',
    '{"a": NaN}',
    '{"a": Infinity}',
    '{"a": 1e999}',
    '{"a": 8, "a": 7.5}',
    '{"a": 7}{"a": 7}',
    '{"a": 7} x',
    "[" * 40_000,
    '{"a":' * 9_000,
    '{"a": ' + "9" * 5000 + "}",
    "\ud800",
    "\x00",
    '{"a": 7\x00}',
    '"' * 40_000,
    '```json\n{"a": 7}\n```\n```json\n{"a": 8}\n```',
    "{'a': 7}",
    '{"a": true}',
    '{"A": 7}',
    "x" * 1_000_000,
]
CHOICES = [
    "Answer: A or B",
    "Answer: A, B",
    "(A) (B)",
    "AB",
    r"\boxed{A, B}",
    r"\boxed{B} no \boxed{A}",
    "Answer: B Answer: C",
    "b",
    "８",
    "B" * 9999,
]

PIECES = [
    "7",
    "5",
    "\\frac",
    "{",
    "}",
    "^",
    "\\sqrt",
    "(",
    ")",
    "=",
    ",",
    "\\text{or}",
    "\\",
    "$",
    "!",
    "\ud83d",
    "\x07",
    "x",
    "<",
]


def noise() -> list[str]:
    """Random strings of a grammar's pieces around two answers, none of which is 7 alone."""
    rng = random.Random(7)
    return ["5 " + "".join(rng.choices(PIECES, k=40)) + " 8" for _ in range(24)]


Case = tuple[str, str]


def cases() -> list[Case]:
    """(by, response): every response is wrong."""
    out = [("math", rf"thus \boxed{{{text}}}") for text in (*HEDGES, *POWERS)]
    out += [("math", rf"\boxed{{{text}}}") for text in SHAPES] + [("math", text) for text in ("7", "maybe 7", "#### 7")]
    out += [("math", rf"\boxed{{{text}}}") for text in noise()]
    out += [("json", text) for text in PAYLOADS] + [("choice", text) for text in CHOICES]
    return out + [("code", f"```python\n{source}\n```") for source in EXPLOITS.values()]


CLOTHES = ("７", "७", "\U0001d7d5", "7\u0301", "7\x00", "\u202e7", "⁷", "Ⅶ", r"\def\x{7}\x", "7}{", ",".join("7" * 900))
LEGAL = {rf"\boxed{{{text}}}" for text in CLOTHES}
"""Sevens in other clothes: right or wrong, as long as they end."""


def attack(some: list[Case]) -> list[Grade]:
    """The grades of the cases, two at a time, each within its time; the graders work afterwards; nothing is left."""
    graders = {by: Grader(by, "choice" if by == "choice" else "boxed", DEADLINE, workers=2) for by in RIGHT}

    def one(case: Case) -> Grade:
        by, text = case
        began = time.monotonic()
        (grade,) = graders[by].grade_rows([text], [Example("x", "p", RIGHT[by])])
        assert time.monotonic() - began < 2 * (DEADLINE + 1) + START, ascii(text[:80])
        return grade

    try:
        with ThreadPoolExecutor(2) as threads:
            grades = list(threads.map(one, some))
        for by in {by for by, _ in some}:
            # On a machine that is busy otherwise a sound answer may be late, too; a broken grader is late for ever.
            assert any(one((by, SHOWN[by])).success is True for _ in range(3)), f"{by} works afterwards"
    finally:
        for grader in graders.values():
            grader.close()
    assert not workers()
    return grades


def judged(some: list[Case]) -> dict[str, int]:
    """How many ended in each status, once it is sure that none is a success and all are counted."""
    grades = attack(some)
    wrong = [
        ascii(text[:80]) for (_, text), grade in zip(some, grades, strict=True) if grade.success and text not in LEGAL
    ]
    assert not wrong and len(grades) == len(some)
    ungraded = [ascii(t[:80]) for (_, t), g in zip(some, grades, strict=True) if g.success is None]
    assert not ungraded, "a response cannot make itself ungraded, which would spare it a score of 0"
    return {status: sum(grade.status == status for grade in grades) for status in STATUSES}


def slow(case: Case) -> bool:
    """Whether a case ends at the deadline, or starts programs."""
    return case[0] == "code" or case[1] in {rf"thus \boxed{{{power}}}" for power in POWERS}


def test_twenty_hostile_answers() -> None:
    told = judged(random.Random(1).sample([case for case in cases() if not slow(case)], 20))
    assert sum(told.values()) == 20 and told["ok"] > 5 and told["no_answer"] > 1


@pytest.mark.heavy
def test_a_tower_of_powers_is_a_counted_failure() -> None:
    assert judged([("math", rf"thus \boxed{{{POWERS[0]}}}")])["timeout"] == 1


@pytest.mark.heavy
def test_two_hundred_hostile_answers() -> None:
    some = cases()
    told = judged(some)
    assert len(some) >= 200 and told["timeout"] >= 5 and told["ambiguous"] >= 5 and sum(told.values()) == len(some)
