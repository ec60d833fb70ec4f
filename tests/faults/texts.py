"""Texts that are hard on whoever looks for an answer in them: grown from a grammar, and mutated."""

from __future__ import annotations

from random import Random

BOXES = (r"\boxed{", r"\fbox{", r"\\boxed{", r"\boxed {", r"\boxed", r"\boxed{{", "boxed{", r"\boxed\n{", r"\boxed{}")
MARKS = ("</think>", "<think>", "####", "Answer:", "answer is", "**Answer**", "Final answer:", "answer\n", "(A)", "(B)")
LATEX = (
    *(r"\frac{1}{2}", r"\dfrac12", r"\frac{", r"\text{or}", r"\text{", r"\mathrm{m}", r"\approx 1.29", r"\overline{3}"),
    *(
        r"\left(",
        r"\right)",
        r"\,",
        r"\!",
        r"\;",
        "{,}",
        r"\pm",
        r"\le",
        r"\cup",
        r"\to",
        r"\{",
        r"\}",
        r"\sqrt{",
        "^{",
    ),
    *(r"0.\overline{3}", r"\text{ or }", r"\lor", r"\equiv", "x=", "=", "==", r"\in", "_{", r"\begin{matrix}", r"\\"),
)
NUMBERS = (
    *("0", "-0", "007", "1,000", "1,00", "1{,}000", ".5", "5.", "1/0", "-1/-2", "1/2/3", "1e9", "1e999999999", "0x10"),
    *(
        "9" * 1_900,
        "9" * 5_000,
        "1." + "0" * 1_900,
        "1" + ",000" * 600,
        "0." + "3" * 1_900,
        "1/" + "9" * 1_900,
        "2^{99999}",
    ),
    *(
        "\u0661\u0662\u0663",
        "\uff11\uff12",
        "\u00b2",
        "\u2460",
        "\u0be7",
        "\u2212\u0031",
        "\U0001d7d9",
        "\u215b",
        "1_000",
    ),
)
WORDS = (
    "east",
    "yes",
    "A or B",
    "none",
    "a b c",
    "dog",
    "One",
    "x",
    "xy",
    "I",
    "pi",
    "sin(x)",
    "exp(exp(9))",
    "9**9**9",
)
ODD = (
    "\ud800",
    "\udfff",
    "\x00",
    "\u0301" * 40,
    "\u200b",
    "\u202e",
    "\ufeff",
    "\u2028",
    "\x85",
    "\t",
    "\r\n",
    "\n",
    "  ",
)
FENCES = ("```python\n", "```json\n", "```\n", "```", "~~~", '{"a": 1}', "[1, 2]", "null")
SUMS = ("1+2*3", "-4", "5*9", "+", "-", "*", "1+2=3", ";", ",", "[5*9=45]", "(1+2=3)", ">+5*9=45", "=45", "(", ")", "]")
POOLS = (BOXES, MARKS, LATEX, NUMBERS, WORDS, ODD, FENCES, SUMS, tuple("{}()[]$ ,.-+*/=^_\\:#aA1"))
DEEP = (
    "{",
    "}",
    "(",
    ")",
    "[",
    r"\boxed{",
    r"\text{",
    r"\frac{",
    "-(",
    "(-",
    "**",
    "^",
    "^{",
    "A, ",
    "answer: ",
    "1,",
    "a ",
    " ",
)
USUAL = 2_000
"""Characters of most texts."""
LONGEST = 120_000
"""Characters of a text; answers are looked for in the first 50,000 and a few more."""


def grown(rng: Random) -> str:
    """A text of a few pieces, of which some are repeated very often."""
    pieces = []
    for _ in range(rng.randint(1, 12)):
        piece = rng.choice(rng.choice(POOLS))
        if rng.random() < 0.12:
            piece = rng.choice(DEEP) * rng.choice((3, 50, 400, 1_900))
        pieces.append(piece * (rng.choice((1, 1, 1, 2, 30)) if len(piece) < 60 else 1))
        if rng.random() < 0.2:
            pieces.append("}" * rng.choice((1, 1, 2, 30)))
    if rng.random() < 0.02:
        pieces.append(rng.choice(DEEP) * 60_000)
    return "".join(pieces)[: LONGEST if rng.random() < 0.1 else USUAL]


def mutated(rng: Random, text: str, other: str) -> str:
    """`text` cut, doubled, crossed with `other`, or with a piece put in."""
    at = rng.randint(0, len(text))
    to = min(len(text), at + rng.randint(0, 60))
    match rng.randint(0, 5):
        case 0:
            made = text[:at] + text[to:]
        case 1:
            made = text[:at] + text[at:to] * rng.choice((2, 20, 300)) + text[to:]
        case 2:
            made = text[:at] + other[rng.randint(0, len(other)) :]
        case 3:
            made = text[:at] + rng.choice(rng.choice(POOLS)) + text[at:]
        case 4:
            made = text[:at] + chr(rng.choice((rng.randint(0, 127), rng.randint(0, 0x10FFFF)))) + text[at + 1 :]
        case _:
            made = text * 2
    return made[:LONGEST]
