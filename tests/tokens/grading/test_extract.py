"""Where an answer stands: each rule on paper, and linear on what a model may write."""

from __future__ import annotations

import time

import pytest

from rekindle.tokens.grading.extract import RULES, Found, extract, letter


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("boxed", r"\boxed{\frac{1}{2}} ... \boxed{3", "1/2"),
        ("boxed", r"\boxed{5} \boxed{7}", "7"),
        ("boxed", r"<think>\boxed{5}</think> so", None),
        ("boxed", "the answer is 7", None),
        ("hash", "so\n#### 1,234.", "1234"),
        ("hash", "####72", "72"),
        ("hash", "#### $72\nand more", "72"),
        ("hash", "#### 1\n#### 2", "2"),
        ("hash", "#### 72 apples", "72 apples"),
        ("hash", "#### **72**", "72"),
        ("boxed", "<think>" + "so " * 20_000 + r"</think> \boxed{7}", "7"),
        ("hash", "72", None),
        ("hash", "####", None),
        ("last_number", "I think 5 or 6, maybe 7", "7"),
        ("last_number", "it is -3.50.", "-7/2"),
        ("last_number", "10-3", "3"),
        ("last_number", "1,000 of them", "1000"),
        ("last_number", "3/4, I say", "3/4"),
        ("last_number", "none", None),
        ("whole", "  1/2 \n", "1/2"),
        ("whole", "<think>5</think>7", "7"),
        ("whole", "", None),
        ("any", r"#### 3 then \boxed{4} and 5", "4"),
        ("any", "#### 3\n5", "3"),
        ("any", "**Answer:** 42\nas 6 times 7", "42"),
        ("any", "Final answer: $\\frac{1}{2}$", "1/2"),
        ("any", "it is 9", "9"),
        ("any", "nothing", None),
        ("choice", "The answer is (B).", "B"),
        ("choice", "Answer: **C**", "C"),
        ("choice", "Answer: A ... Answer: B", "B"),
        ("choice", r"Answer: A, no: \boxed{\text{(D)}}", "D"),
        ("choice", r"\boxed{b}", "B"),
        ("choice", "I would say (C)", "C"),
        ("choice", "B.", "B"),
        ("choice", "(B)", "B"),
        ("choice", r"\boxed{\textbf{B}}", "B"),
        ("choice", r"\boxed{\mathrm{B}}", "B"),
        ("choice", "Answer: option B", "B"),
        ("choice", "<answer>B</answer>", "B"),
        ("choice", "Answer: Apples", None),
        ("choice", "The answer is (B). In my answer I used induction.", "B"),
        ("choice", "Answer: B. Explanation: the answer A is wrong", "B"),
        ("choice", "Answer: B\nWhy not answer C?", "B"),
        ("choice", r"The final answer is \(B\).", "B"),
        ("choice", "**Answer**: B", "B"),
        ("choice", "**Final Answer**\n\nB", "B"),
        ("choice", "### Answer\nB", "B"),
        ("choice", "Answer\n\n(B)\n because (A) is worse", "B"),
        ("choice", "The answer is: C", "C"),
        ("choice", "A good question", None),
        ("choice", "", None),
        ("code", "```python\nx\n```\n```py\ny\n```", "y\n"),
        ("code", "```python\nx\n```\n```python\ny", "x\n"),
        ("code", "```\nx\n```", None),
        ("code", "```python\r\nx\r\n```\r\n", "x\r\n"),
        ("code", "print(1)", None),
        ("json", '```json\n{"a": 1}\n```', '{"a": 1}'),
        ("json", '<think>{}</think>{"a": 1} ', '{"a": 1}'),
    ],
)
def test_the_rules(rule: str, text: str, answer: str | None) -> None:
    assert extract(rule, text) == Found(answer, "ok" if answer else "no_answer")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("choice", "Answer: A or B"),
        ("choice", "the answer is (A), (B)"),
        ("choice", r"\boxed{A/C}"),
        ("choice", "Answer: A (or B)"),
        ("choice", r"\boxed{A \lor B}"),
        ("choice", r"\boxed{B|C}"),
        ("choice", "Answer: B or maybe C"),
        ("choice", r"\boxed{B \text{ or } C}"),
        ("choice", "(A) is wrong, (B) is right"),
        ("json", "```json\n{}\n```\n```json\n{}\n```"),
    ],
)
def test_what_names_several_is_ambiguous(rule: str, text: str) -> None:
    assert extract(rule, text) == Found(None, "ambiguous")


@pytest.mark.parametrize(
    ("text", "found"),
    [("B", "B"), ("(b)", "B"), ("c.", "C"), (r"\text{(A)}", "A"), ("AB", None), ("", None), ("7", None)],
)
def test_references_of_a_choice(text: str, found: str | None) -> None:
    assert letter(text) == found


_LONG = [
    "1,",
    "```\n",
    "answer ",
    "(A)",
    " ",
    "\t",
    "\\text{",
    "-",
    "*",
    "\n",
    "\n>*# ",
    "1",
    "answer is *$ ",
    "####",
    "A ",
    "[",
    "｛",
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("piece", _LONG, ids=range(len(_LONG)))
def test_no_rule_is_slow(rule: str, piece: str) -> None:
    text = "answer:" + piece * (49_000 // len(piece))
    began = time.process_time()
    fenced = ("```" + text[7:] + "x", "```python" + text[7:] + "```")
    for tried in (text, text[7:], text[7:] + "answer:", "x" + "\ud800\x00" + text[:100], *fenced):
        assert extract(rule, tried).status in ("ok", "no_answer", "ambiguous")
    assert time.process_time() - began < 1
    assert extract(rule, "1" * 50_001) == Found(None, "no_answer"), "too long to be looked at"
