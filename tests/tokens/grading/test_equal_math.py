"""Equality by math-verify: its executed edge cases, pinned, and what we take and refuse on top of them."""

from __future__ import annotations

import re
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from math_verify import parse, verify

from rekindle.tokens.grading.equal_math import by_rule, check, depth, same, words
from rekindle.tokens.grading.extract import extract
from rekindle.tokens.grading.forms import added_words, listed
from rekindle.tokens.grading.numbers import grade


def theirs(gold: str, prediction: str) -> bool:
    unbounded: int = None  # type: ignore[assignment]
    read = [parse(text, parsing_timeout=unbounded) for text in (gold, prediction)]
    return verify(*read, timeout_seconds=None)


def test_the_version_that_the_table_was_made_with() -> None:
    assert version("math-verify") == "0.9.0" and version("latex2sympy2_extended") == "1.11.0"


@pytest.mark.parametrize(
    ("gold", "prediction", "verdict"),
    [
        ("1/3", ".333", False),
        ("1/3", ".333333", True),
        (".5", r"\boxed{50\%}", True),
        ("50", r"\boxed{50\%}", True),
        ("12", "12 cm", True),
        ("$(1,2)$", "$1<x<2$", False),
        ("$1<x<2$", "$(1,2)$", True),
        ("(1,2)", "1<x<2", False),
        ("1<x<2", "(1,2)", False),
        (r"$\{1,2\}$", "$1,2$", True),
        (r"$\{1,2\}$", "$2,1$", True),
        (r"$\{1,2\}$", r"\boxed{1,2}", True),
        ("{1,2}", "{1,2}", False),
        ("5", "x=5", True),
        ("x=5", "5", True),
        ("1000", "1,000", True),
        ("pi", "3.14159", False),
        ("2", r"\boxed{1+1}", True),
        ("7", r"\boxed{5} \boxed{7}", False),
        ("7", r"\boxed{7} wait, 5", True),
        ("7", "I think 5 or 6, maybe 7", True),
        ("A", "A", False),
        ("3", r"\boxed{3", False),
    ],
)
def test_what_the_library_itself_says(gold: str, prediction: str, verdict: bool) -> None:
    assert theirs(gold, prediction) is verdict


RIGHT = [
    ("1/3", r"0.333333"),
    ("0.5", r"50\%"),
    ("50", r"50\%"),
    ("12", "12 cm"),
    ("12", r"12\text{ cm}"),
    (r"\{1,2\}", "2,1"),
    ("5", "x=5"),
    ("x=5", "5"),
    ("2", "1+1"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    (r"\frac{1}{2}", r"\frac{1}{2} = 0.5"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("x^2+1", "1+x^2"),
    ("(x+1)^2", "x^2+2x+1"),
    ("[1,2)", "[1,2)"),
    (r"\text{east}", "East"),
    ("no solution", r"\text{No solution.}"),
    (r"90^\circ", "90"),
    ("$\\frac{1}{2}$", "0.5"),
    (r"\pi", r"\pi"),
    ("7", r"\text{7}"),
    ("7", r"\mathrm{7}"),
    (r"\mathbf{7}", "14/2"),
    ("204_5", "204_{5}"),
    ("12", r"12 \text{ cm}^2"),
    (r"3\text{ apples}", r"3 \text{ apples}"),
    ("7000", "7,000"),
    ("0.00003", "3/100000"),
    ("no", r"\text{No}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("1000", "1{,}000"),
    ("1234567", "1{,}234{,}567"),
    ("12000", r"\$12{,}000"),
    ("1000", r"1\,000"),
    ("1000.5", "1{,}000.5"),
    (r"0.\overline{3}", "1/3"),
    ("1/3", r"0.\overline{3}"),
    (r"1.\overline{27}", r"\frac{14}{11}"),
    (r"0.\overline{142857}", r"\frac17"),
    (r"-0.1\overline{6}", r"-\frac16"),
    ("1,-2", "x=1, x=-2"),
    ("1,2", r"x = 1 \text{ or } x = 2"),
    ("1,2", r"1 \text{ and } 2"),
    (r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"),
    (r"1+\sqrt{2}, 1-\sqrt{2}", r"1 \pm \sqrt{2}"),
    (r"\frac{9}{7}", r"\frac{9}{7} \approx 1.2857"),
    (r"\frac{9}{7}", r"\frac{9}{7} \approx 1.286"),
    ("5", r"5\text{ apples}"),
    ("5", r"5 \text{ ways}"),
    ("12", r"12 \text{ cm}^2"),
    (r"25\text{ cm}^2", "25"),
    (r"25\text{ cm}^2", r"25 \text{ cm}^{2}"),
    (r"7\text{ h }30\text{ min}", r"7 \text{ h } 30 \text{ min}"),
    ("Ann", "Ann"),
    ("Ann", "ann"),
    (r"\text{Area}=7", "7"),
    ("1,2,3", r"1, 2, \text{ and } 3"),
    ("x=1,x=2", "1,2"),
    ("2000", "2{,}000"),
    ("x=5", "5"),
    (r"\sqrt2", r"x=\sqrt{2}\approx 1.414"),
    (r"1 \text{ or } 2", r"2 \text{ or } 1"),
    (r"x=2\text{ or }x=3", r"x=3\text{ or }x=2"),
    (r"1, 2, \text{ and } 3", "3,2,1"),
    (r"x\le 2\text{ or }x\ge 3", r"x \leq 2 \text{ or } x \geq 3"),
    (r"\frac{9}{7}", r"x = \frac{9}{7} \approx 1.2857"),
]
WRONG = [
    ("1/3", "0.333"),
    ("pi", "3.14159"),
    ("(1,2)", "1<x<2"),
    ("east", "seat"),
    ("no solution", "on solution"),
    ("7", "57"),
    ("7", "7 or 5"),
    ("7", r"5 \text{ or } 7"),
    ("7", "5, 7"),
    ("7", "5; 7"),
    ("7", "5 = 7"),
    ("7", "x = 5 = 7"),
    ("7", r"5 \to 7"),
    ("7", r"5 \Rightarrow 7"),
    ("7", r"5 \approx 7"),
    ("7", r"5 \sim 7"),
    ("7", r"7\text{ (or 5)}"),
    ("7", r"5 \land 7"),
    ("7", r"5 \cup 7"),
    ("7", r"5 \\ 7"),
    ("7", "5 & 7"),
    ("7", r"5 \cdot 1 | 7"),
    ("7", "7 \\boxed{5}"),
    ("7", "5} \\boxed{7"),
    ("7", "5$ $7"),
    ("7", "7 \\pm 1"),
    ("7", r"5 7 x)\text{or}7(x"),
    ("7", r"\frac{5 or 7"),
    ("7", r"^^5 __ 7"),
    ("204_5", "204_6"),
    ("204", "204_5"),
    ("12_5", "12"),
    ("7", r"7\text{ or something else}"),
    ("7", r"7\text{ but maybe eight}"),
    ("7", r"7 \text{ is wrong}"),
    ("7", r"7\mbox{ or eight}"),
    ("7", "7,7"),
    ("5", "[5,5]"),
    ("(0,1)", r"\{0,1\}"),
    (r"\{0,1\}", "(0,1)"),
    ("0.0000004", "0.0000001"),
    ("0.000001", "0.0000014"),
    ("no", "on"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "2"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "4"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"0.\overline{3}", "0"),
    (r"0.\overline{73}", "0"),
    (r"1.\overline{27}", "1"),
    ("1000", "1{,}001"),
    ("1,2", r"x = 1 \text{ or } x = 3"),
    ("1", r"1 \text{ or } 2"),
    ("1,2", "3=1, 2"),
    ("1,2", "1, 3=2"),
    ("1,2", "1=3,2=4"),
    (r"\frac{9}{7}", r"\frac{9}{7} \approx 1.2"),
    ("5", r"4 \approx 5"),
    ("5", r"5 \approx 7"),
    ("5", r"5\text{ or six}"),
    ("5", r"5\text{ million}"),
    ("7", r"7\text{ h }30\text{ min}"),
    ("7", r"7\text{ m}5\text{ m}"),
    (r"7\text{ h }30\text{ min}", "7"),
    (r"7\text{ h }30\text{ min}", r"7\text{ h }45\text{ min}"),
    (r"5\text{ feet }7\text{ inches}", r"5\text{ feet }9\text{ inches}"),
    ("7", r"7\text{ {or} 5}"),
    ("7", r"7\text{ not eight}"),
    ("Ann", "Nan"),
    ("Ben", "Neb"),
    (r"20\text{ apples and }5\text{ pears}", "20"),
    ("5", "x=5, x=7"),
    ("7", r"7 \text{ is wrong}"),
    ("7", r"7\mbox{ or eight}"),
    ("7", r"5 = 7 \approx 7"),
    (r"\frac{9}{7}", r"5 = \frac{9}{7} \approx 1.29"),
    (r"x=2\text{ or }x=3", r"x=2 \text{ or } x=5"),
    ("1,2", "1 = 5 = 1, 2"),
    ("1,2", "1=2,2=1"),
    (r"2\mathbf{i}+3\mathbf{j}", r"2\mathbf{i}+5\mathbf{j}"),
]


@pytest.mark.parametrize(("reference", "answer"), RIGHT)
def test_equal_answers(reference: str, answer: str) -> None:
    assert grade(answer, reference) or same(reference, answer)["success"] is True


@pytest.mark.parametrize(("reference", "answer"), WRONG)
def test_unequal_answers_and_hedges(reference: str, answer: str) -> None:
    assert not grade(answer, reference) and same(reference, answer)["success"] is False


def test_of_several_boxes_the_last_is_the_answer_and_the_text_around_is_not() -> None:
    last = extract("boxed", r"\boxed{5} \boxed{7}").answer
    assert last == "7" and grade(last, "7") is True, "where the library sees a set of two"
    assert extract("boxed", "I think 5 or 6, maybe 7").answer is None


def test_an_answer_that_says_two_things_is_told_apart_from_a_wrong_one() -> None:
    assert same("7", "5 = 7")["ambiguous"] is True and same("7", r"5 \to 7")["ambiguous"] is True
    assert "ambiguous" not in same("7", "8") and "ambiguous" not in same("7", "7.0")


def test_words_are_compared_as_text() -> None:
    assert words(r"\text{east}") == "east" == words("East.") and words("no solution") == "no solution"
    assert [words(t) for t in ("xy", "2x", "pi", "x+y", "7", "", "A")] == [None] * 7
    assert same("east", "east")["by"] == "text"


@pytest.mark.parametrize("reference", [r for r, _ in RIGHT])
def test_a_reference_equals_itself(reference: str) -> None:
    assert check(reference)["success"] is True


def test_deep_nesting_is_refused_before_it_is_parsed() -> None:
    assert depth("((1)[2]{})") == 2 and depth("7") == 0 and depth("((" * 9) == 18
    assert "21 levels" in same("7", "(" * 21 + "7" + ")" * 21)["why"]
    assert same("7", "(" * 9 + "7" + ")" * 9)["success"] is True


def page() -> list[tuple[str, str, bool]]:
    """(reference, answer, equal) of every line of the table in docs/grading.md."""
    text = (Path(__file__).parents[3] / "docs" / "grading.md").read_text(encoding="utf-8")
    out = []
    for line in text.partition("| reference | answer | equal |")[2].partition("\n\n")[0].splitlines()[2:]:
        references, answers, verdict = [cell.strip() for cell in line.strip("|").split("|")]
        right = [said.startswith("yes") for said in verdict.split(" / ")]
        pairs = [(r, a) for r in re.findall("`([^`]+)`", references) for a in re.findall("`([^`]+)`", answers)]
        out += [(*pair, right[min(i, len(right) - 1)]) for i, pair in enumerate(pairs)]
    return out


def test_the_page_says_what_happens() -> None:
    assert len(page()) >= 16 and {right for *_, right in page()} == {True, False}
    for reference, answer, right in page():
        found = grade(answer, reference) or same(reference, answer)["success"]
        assert found is right, (reference, answer)


@pytest.mark.parametrize("answer", ["1e999999999", "1E-999999999"])
def test_a_power_of_ten_is_not_worked_out(answer: str) -> None:
    began = time.process_time()
    assert by_rule("0.00001", answer) is None and by_rule(answer, "0.00001") is None
    assert time.process_time() - began < 0.5
    assert by_rule("0.00001", "1e-5") is True


@pytest.mark.parametrize("blank", [" ", "\x85", "\n"])
def test_runs_of_white_space_are_read_once(blank: str) -> None:
    def least(size: int) -> float:
        text, times = "7" + blank * size + "x", []
        for _ in range(5):
            began = time.process_time()
            listed(text), added_words("x", "7" + blank * size + "\\text{")
            times.append(time.process_time() - began)
        return min(times)

    assert least(16_000) < 8 * least(4_000) + 0.002, "four times the text takes about four times as long, not sixteen"


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        (r"1 \text{ or } 2", "1, 2"),
        (r"1,  \text{and} 2", "1, 2"),
        (r"1\lor 2", "1, 2"),
        (r"1 , \text{, or } 2", "1 , 2"),
        (r"1  \lor2", "1,2"),
        (r"1 \text{ nor } 2", r"1 \text{ nor } 2"),
    ],
)
def test_lists_that_words_join(answer: str, plain: str) -> None:
    assert listed(answer) == plain
