"""Fuzzing of what reads a model's words: answer extractors, comparisons, and the parser of expressions.

`python -m tests.faults.fuzz --seconds 600 --store` tries grown and mutated texts for so long, notes what raises and
what takes too long, and stores the numbers as the row "fuzz.py" of docs/reliability.json. Slow texts are mutated more
often. Time is this process's own, so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from rekindle.tokens.grading import boxed, equal_math, forms, harmless, numbers
from rekindle.tokens.grading.extract import RULES, extract, letter
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.tasks import digit_sum, expressions, reduce
from tests.faults.malformed import Late, limited
from tests.faults.rows import store
from tests.faults.texts import grown, mutated

SHORT, FAST, SLOW = 2_000, 0.05, 0.5
"""Characters of a usual answer, the seconds that a call may take for one, and for a text of any length."""
AGAIN = 5
"""How often a call that seemed too slow is timed again at the end, in turn with `yard`; the least times count: a
machine that is shared stands still at times, and counts that as work."""
YARD = 0.0042
"""Seconds of `yard` on the machine that the limits are stated for, quiet."""
HANG = 20.0
"""Seconds after which a call is stopped."""
MATH_DEADLINE, BATCH, MATH_SHARE = 2.0, 40, 0.25
"""Of math-verify in its workers: seconds a pair, pairs at once, and the share of the time that it gets."""
KEPT = 200
"""Slow texts that are mutated further."""

Call = Callable[[str, str], object]


def _ways() -> Mapping[str, Call]:
    """What reads a text (and another one) in this process; each never raises."""
    entry = {"answer": "1", "metadata": {"variable": "x", "variables": ["y"]}}
    found: dict[str, Call] = {f"extract {rule}": lambda text, other, rule=rule: extract(rule, text) for rule in RULES}
    found |= {
        "boxed": lambda text, other: (boxed.extract_boxed(text), boxed.boxed_digit(text), boxed.boxes(text)),
        "normalise": lambda text, other: numbers.normalise(text),
        "grade": lambda text, other: numbers.grade(text, other),
        "letter": lambda text, other: letter(text),
        "forms": _forms,
        "math": _math,
        **{f"harmless {n}": lambda text, other, n=n: harmless.harmless(n, text, entry) for n in NAMES},
        "expressions": _expressions,
        "reduce": _reduce,
        "digit_sum": _digit_sum,
    }
    return found


NAMES = (min(harmless.LITERAL), min(harmless.ARITHMETIC), min(harmless.ALGEBRA), "any other")
_REDUCE, _DIGITS = reduce.Reduce(train=4, heldout=1, ood=2), digit_sum.task()
_PROMPTS = [*_REDUCE.split("train"), *_REDUCE.split("ood")]


def _forms(text: str, other: str) -> object:
    answer = text[: numbers.MAX_ANSWER]  # what an extractor lets through
    read = (forms.repeating, forms.is_list, forms.listed, forms.values, forms.rounded, forms.mixed, forms.unread)
    return [one(answer) for one in read], forms.added_words(other[: numbers.MAX_ANSWER], answer)


def _math(text: str, other: str) -> object:
    answer, reference = text[: numbers.MAX_ANSWER], other[: numbers.MAX_ANSWER]
    alone = (equal_math.opened, equal_math.depth, equal_math.words, equal_math.worded, equal_math.sides)
    return [one(answer) for one in alone], equal_math.by_rule(reference, answer), equal_math.hedged(reference, answer)


def _expressions(text: str, other: str) -> object:
    terms = expressions.read_terms(text)
    if terms is None:
        return None
    assert expressions.write_terms(terms) == text
    if len(terms) > 7:  # the longest of a prompt
        return expressions.total(terms)
    return expressions.moves(terms), list(islice(expressions.rearranged(terms), 50)), expressions.total(terms)


def _reduce(text: str, other: str) -> object:
    prompt = _PROMPTS[len(text) % len(_PROMPTS)]
    told = _REDUCE.derivation(prompt, text)
    return told, _REDUCE.extract(text), _REDUCE.well_formed(text), _REDUCE.steps(text), _REDUCE.grade(text, other)


def _digit_sum(text: str, other: str) -> object:
    prompt = _DIGITS.split("train")[0]
    told = _DIGITS.derivation(prompt, text)
    return told, _DIGITS.extract(text), _DIGITS.well_formed(text), _DIGITS.steps(text), _DIGITS.grade(text, other)


@dataclass
class Report:
    """What was tried. slowest: way -> (seconds, characters) of texts up to SHORT, and of longer ones."""

    inputs: int = 0
    calls: int = 0
    crashes: dict[str, str] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)
    suspects: dict[tuple[str, bool], tuple[float, Call, str, str]] = field(default_factory=dict)
    slowest: dict[bool, tuple[float, str, int]] = field(default_factory=dict)
    pairs: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    pair: float = 0.0

    def try_one(self, name: str, call: Call, text: str, other: str) -> float:
        """Seconds that a call took."""
        self.calls += 1
        short = max(len(text), len(other)) <= SHORT
        took = self.timed(name, call, text, other)
        if took > self.slowest.get(short, (0.0,))[0]:
            took = min(took, self.timed(name, call, text, other))
            self.slowest[short] = max(self.slowest.get(short, (0.0, "", 0)), (took, name, len(text)))
        if took > self.suspects.get((name, short), (FAST if short else SLOW,))[0]:
            self.suspects[name, short] = (took, call, text, other)
        return took

    def judge(self) -> Report:
        """Time the slowest call of each kind again, if it was above its limit: late is what is so beside `yard`."""
        for (name, short), (_, call, text, other) in self.suspects.items():
            times = [(self.timed(name, call, text, other), yard()) for _ in range(AGAIN)]
            took = min(a for a, _ in times) / max(1.0, min(b for _, b in times) / YARD)
            if took > (FAST if short else SLOW):
                self.late[f"{name}, {'short' if short else 'long'}"] = (
                    f"{took:.3f} s for {len(text)} characters: {text[:400]!a}"
                )
        return self

    def timed(self, name: str, call: Call, text: str, other: str) -> float:
        """Seconds of one call; what it raises is noted."""
        began = time.process_time()
        try:
            with limited(HANG):
                call(text, other)
        except (Exception, Late) as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.crashes.setdefault(f"{name}: {type(error).__name__} at {where.name}:{where.lineno}", ascii(text[:400]))
        return time.process_time() - began

    def told(self) -> str:
        """The numbers in a sentence."""
        short, long = (self.slowest.get(kind, (0.0, "-", 0)) for kind in (True, False))
        said = (
            f"{self.inputs} texts in {self.calls} calls; slowest up to {SHORT} characters: {1e3 * short[0]:.1f} ms "
            f"({short[1]}), beyond: {1e3 * long[0]:.0f} ms ({long[1]}, {long[2]} characters)"
        )
        if self.pairs:
            counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
            said += f"; {self.pairs} pairs by math-verify in its workers ({counts})"
        return f"{said}; {len(self.crashes)} crashes, {len(self.late)} too slow"


def yard() -> float:
    """Seconds of a fixed piece of work: how slow this machine is now."""
    began, found = time.process_time(), 0
    for number in range(200_000):
        found += number % 7
    return time.process_time() - began


def fuzz(seconds: float, seed: int = 0, math: bool = True) -> Report:
    """Try texts for so long; the same seed tries the same ones in the same order."""
    rng, report, ways = Random(seed), Report(), _ways()
    kept: list[tuple[float, str]] = [(0.0, grown(rng)) for _ in range(KEPT)]
    end = time.monotonic() + seconds * (1 - MATH_SHARE * math)
    while time.monotonic() < end:
        text, other = _next(rng, kept), rng.choice(kept)[1]
        report.inputs += 1
        took = max(report.try_one(name, call, text, other) for name, call in ways.items())
        score = took / (200 + len(text))
        place = rng.randrange(KEPT)
        if score > kept[place][0] or rng.random() < 0.02:
            kept[place] = (score, text)
    if math:
        _by_math(rng, kept, report, time.monotonic() + seconds * MATH_SHARE)
    return report.judge()


def _next(rng: Random, kept: list[tuple[float, str]]) -> str:
    if rng.random() < 0.4:
        return grown(rng)
    text = rng.choice(kept)[1]
    for _ in range(rng.randint(1, 4)):
        text = mutated(rng, text, rng.choice(kept)[1])
    return text


def _by_math(rng: Random, kept: list[tuple[float, str]], report: Report, end: float) -> None:
    """math-verify in its workers: whatever a pair does, it has a grade by the deadline."""
    grader = Grader("math", "boxed", deadline=MATH_DEADLINE)
    try:
        while time.monotonic() < end:
            texts = [(numbers.normalise(_next(rng, kept)[:1_999]), _next(rng, kept)[:300]) for _ in range(BATCH)]
            began = time.monotonic()
            grades = grader.compare(texts)
            took = time.monotonic() - began
            report.pairs += len(texts)
            for grade in grades:
                report.statuses[grade.status] = report.statuses.get(grade.status, 0) + 1
            if len(grades) != BATCH or took > 3 * MATH_DEADLINE * BATCH:
                report.late.setdefault("math-verify", f"{took:.1f} s for {len(grades)} of {BATCH} pairs")
    except Exception as error:
        report.crashes.setdefault(f"math-verify: {type(error).__name__}: {error}", "")
    finally:
        grader.close()


def row(report: Report, seconds: float) -> dict[str, str]:
    """The row of docs/reliability.json."""
    return {
        "area": "input",
        "what": f"{seconds / 60:g} minutes of fuzzing of the answer extractors, the comparisons and the parser of "
        "expressions: nested and unbalanced boxes, digits of all scripts, huge numbers, deep brackets, surrogates",
        "does": f"nothing raises; no call above {1e3 * FAST:g} ms up to {SHORT} characters or {1e3 * SLOW:g} ms "
        f"beyond; every pair has its grade by the workers' deadline",
        "said": report.told(),
    }


def main() -> int:
    """Fuzz, print, and store where asked; 1 where something raised or was late."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--no-math", action="store_true", help="leave math-verify and its workers out")
    asked = parser.parse_args()
    report = fuzz(asked.seconds, asked.seed, not asked.no_math)
    print(report.told())
    for what, text in (report.crashes | report.late).items():
        print(f"- {what}\n    {text}")
    bad = bool(report.crashes or report.late)
    if asked.store and not bad:
        store("fuzz.py", row(report, asked.seconds))
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
