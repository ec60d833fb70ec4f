"""Answers: the last balanced box, canonical numbers, and a grader that no text can break."""

from __future__ import annotations

import random
import time
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rekindle.tokens.grading import after_think, extract_boxed, find_boxed, grade, normalise, reference_text
from rekindle.tokens.grading.boxed import boxed_digit


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\frac{1}{2}} ... \boxed{3", r"\frac{1}{2}"),
        (r"\boxed{5} then \boxed{7}", "7"),
        (r"\fbox{4}", "4"),
        (r"\boxed {8}", "8"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{1 \\{x}}", r"1 \\{x}"),
        (r"\boxed{3 ... \boxed{4}", "4"),
        (r"\boxed{a \boxed{b}}", "b"),
        (r"} \boxed{9}", "9"),
        (r"{ \boxed{9}", "9"),
        (r"\\boxed{6}", "6"),
        (r"x \\\boxed{6}", "6"),
        (r"\boxed{}", ""),
        (r"\boxed{3", None),
        (r"\boxed 3", None),
        (r"\boxedx{3}", None),
        (r"boxed{3}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_taken(text: str, content: str | None) -> None:
    assert extract_boxed(text) == content


def test_the_box_is_located_with_its_command() -> None:
    text = r"so \boxed{12}."
    found = find_boxed(text)
    assert found is not None
    assert (text[: found[0]], text[found[1] : found[2]]) == ("so ", "12")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (r"\boxed{A} \boxed{3} \boxed{B}", True),
        (r"\boxed{\frac{\pi}{2}}", True),
        (r"3 \boxed{A} 4", False),
        (r"\boxed{3", False),
        (r"<think>\boxed{3}</think>\boxed{A}", False),
    ],
)
def test_a_digit_in_some_box_after_the_thinking_makes_a_response_valid(text: str, valid: bool) -> None:
    assert boxed_digit(text) is valid


def _by_counting(text: str) -> str | None:
    """The slow definition: for each opener from the right, count braces to its end."""
    for start in range(len(text) - 1, -1, -1):
        opener = next((o for o in (r"\boxed{", r"\fbox{") if text.startswith(o, start)), None)
        if opener is None:
            continue
        depth = 1
        for at in range(start + len(opener), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return text[start + len(opener) : at]
    return None


@settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from([r"\boxed{", r"\fbox{", "{", "}", "1", " "]), max_size=14).map("".join))
def test_the_scan_agrees_with_counting_braces(text: str) -> None:
    assert extract_boxed(text) == _by_counting(text)


@pytest.mark.parametrize(
    ("text", "tail"),
    [("<think>a</think>b</think>c", "b</think>c"), ("no tag", "no tag"), ("a</think>", ""), ("", "")],
)
def test_what_follows_the_first_end_of_thinking(text: str, tail: str) -> None:
    assert after_think(text) == tail


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("007", "7"),
        ("+5", "5"),
        ("-0", "0"),
        ("1,000", "1000"),
        ("12,345,678", "12345678"),
        ("1,00", "1,00"),
        ("$7$", "7"),
        (r"\$1,234.", "1234"),
        ("72.", "72"),
        ("72.0", "72"),
        (r"\ 5\,", "5"),
        (r"1\,2", "1 2"),
        ("- 3", "-3"),
        ("\u22123", "-3"),
        ("0.50", "1/2"),
        (".5", "1/2"),
        ("-1.25", "-5/4"),
        ("1,000.5", "2001/2"),
        ("2/4", "1/2"),
        ("-2 / 4", "-1/2"),
        ("2/-4", "-1/2"),
        ("4/2", "2"),
        (r"\frac{2}{4}", "1/2"),
        (r"-\frac{1}{3}", "-1/3"),
        (r"\dfrac{6}{3}", "2"),
        (r"\frac12", "1/2"),
        (r"\frac{1}{0}", r"\frac{1}{0}"),
        ("1/0", "1/0"),
        ("  two   words ", "two words"),
        ("A", "A"),
        ("x^2", "x^2"),
        ("1e5", "1e5"),
        ("\u0663", "\u0663"),
        ("", None),
        (" $ ", None),
        (".", None),
        ("9" * 2000, "9" * 2000),
        ("9" * 2001, None),
        (None, None),
    ],
)
def test_normalise(text: str | None, canonical: str | None) -> None:
    assert normalise(text) == canonical


@settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(), st.integers().filter(bool))
def test_a_number_equals_itself_in_every_spelling(above: int, below: int) -> None:
    assert normalise(f"{above}/{below}") == normalise(rf"\frac{{{above}}}{{{below}}}")
    assert grade(f"{above:,}", above) is True
    assert grade(f"{above}.0", above) is True
    assert grade(str(above + 1), above) is False


@pytest.mark.parametrize(
    ("answer", "reference", "verdict"),
    [
        ("5", "5", True),
        ("0.5", "1/2", True),
        (".333", "1/3", False),
        ("1000", "1,000", True),
        ("A", "A", True),
        ("a", "A", False),
        ("12 cm", "12", False),
        (None, "5", False),
        ("", "5", False),
        ("5", 5, True),
        ("1/4", 0.25, True),
        ("1.5", Decimal("1.50"), True),
        ("5", Decimal("NaN"), None),
        ("1/10000000", 1e-7, True),
        ("4", r"The area is \boxed{4}.", True),
        ("1234", "six times ... #### 1,234.", True),
        ("5", None, None),
        ("5", "", None),
        ("5", "  ", None),
        ("1", True, None),
        ("5", float("nan"), None),
        ("5", float("inf"), None),
        ("5", ["5"], None),
        ("5", "9" * 3000, None),
        (5, "5", False),
    ],
)
def test_grade(answer: object, reference: object, verdict: bool | None) -> None:
    assert grade(answer, reference) is verdict


def test_an_integer_too_long_to_write_out_cannot_be_graded() -> None:
    assert grade("5", 10**5000) is None
    assert grade("5", 10**1999) is False


def test_every_reference_grades_itself() -> None:
    for value in ("7", "-1.5", r"\frac{3}{9}", "x+y", r"#### 5", 3, 2.5, r"thus \boxed{\text{(B)}}"):
        assert grade(reference_text(value), value) is True


_HOSTILE = [
    "(" * 100_000,
    "{" * 100_000,
    "}" * 100_000,
    r"\boxed{" * 30_000,
    r"\boxed{" * 30_000 + "}" * 30_000,
    "\\boxed" + " " * 100_000,
    "\\" * 100_000,
    "1" * 100_000,
    "1,111" * 20_000,
    "-" * 100_000,
    r"\frac" * 20_000,
    "\ud800\udfff\x00",
    " " * 100_000,
    "",
]


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
def test_hostile_text_is_answered_at_once(text: str) -> None:
    start = time.process_time()
    assert grade(normalise(extract_boxed(after_think(text))), "7") is False
    assert grade(text, "7") is False
    assert grade("7", text) in (False, None)
    assert boxed_digit(text) is False
    assert time.process_time() - start < 2


def test_random_bytes_never_raise() -> None:
    rng = random.Random(0)
    alphabet = ["\\", "{", "}", "boxed", "frac", "$", ",", ".", "/", "-", " ", "1", "\ud83d", "\u00e9", "#"]
    for _ in range(2000):
        text = "".join(rng.choices(alphabet, k=30)) + rng.randbytes(8).decode("latin-1")
        assert grade(extract_boxed(text), "7") in (True, False)
        assert grade("7", text) in (True, False, None)
