"""The grader of a data file's answers: an extraction rule, a comparison, workers for what may hang, and a memory.

A comparison is one of texts: the answer with the reference, which for `json` is a schema and for `code` are tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from rekindle.core.ranks import Alone, Ranks
from rekindle.errors import InputError
from rekindle.tokens.grading import numbers
from rekindle.tokens.grading.base import Grade
from rekindle.tokens.grading.elsewhere import load_sandbox
from rekindle.tokens.grading.equal_json import canonical
from rekindle.tokens.grading.extract import Found, extract, letter
from rekindle.tokens.grading.memory import Memory
from rekindle.tokens.grading.pool import Outcome, Pool
from rekindle.tokens.grading.programs import OWN, Programs, allowed
from rekindle.tokens.rollouts import Example

GRACE = 0.5
"""Seconds beyond the deadline in which a worker that runs programs ends them itself, before it is killed."""


@dataclass(frozen=True)
class Kind:
    """A way to compare. module: of its worker's functions, "" where no worker is needed. rule: the extraction that it
    brings, "" where the user chooses. needs: modules that must be installed. timed: its function takes the deadline.
    blame: what an exception says, "answer" (wrong) or "infra" (the grader failed)."""

    module: str = ""
    function: str = ""
    rule: str = ""
    needs: tuple[str, ...] = ()
    timed: bool = False
    blame: str = "infra"


_HERE = "rekindle.tokens.grading"
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "exact": Kind(),
        "choice": Kind(),
        "math": Kind(f"{_HERE}.equal_math", "same", needs=("math_verify",), blame="answer"),
        "json": Kind(f"{_HERE}.equal_json", "valid", "json", needs=("jsonschema",)),
        "code": Kind(f"{_HERE}.equal_code", "passes", "code", timed=True),
    }
)
Pair = tuple[str | None, str | None]
"""(answer, reference), as texts."""
T = TypeVar("T")
R = TypeVar("R")


class Grader:
    """Finds answers by `rule` and compares them by `by`. Callable from any thread; `close` ends its workers."""

    def __init__(
        self,
        by: str,
        rule: str,
        deadline: float = 10.0,
        workers: int = 2,
        cache: int = 100_000,
        programs: Programs = OWN,
    ) -> None:
        self.by, self.kind, self.programs = by, KINDS[by], programs
        if programs != OWN and not self.kind.timed:
            raise InputError(f"grading.sandbox and grading.unsafe_sandbox are for programs, not for '{by}': drop them")
        if self.kind.rule and rule not in ("boxed", "whole"):
            raise InputError(
                f"grading.extract={rule} does not go with grading.by={by}, which has its own rule: drop it"
            )
        lacking = [name for name in self.kind.needs if importlib.util.find_spec(name) is None]
        if lacking:
            raise InputError(
                f"grading.by={by} needs {lacking[0]}, which is not installed: pip install 'rekindle[math]'"
            )
        self.rule = self.kind.rule or rule
        self.deadline = deadline
        self.memory = Memory(cache)
        self.warning = ""
        ready = self.kind.module and not programs.sandbox
        self.pool = Pool(workers, deadline, prepare=f"{self.kind.module}:ready" if ready else "")
        self._sound: dict[str, bool] = {}
        self._refused: set[str] = set()

    def find(self, text: str) -> Found:
        """The answer in a response."""
        found = extract(self.rule, text)
        if self.by == "choice" and found.answer is not None:
            return Found.of(letter(found.answer))
        return found

    def grade_rows(self, texts: Sequence[str], examples: Sequence[Example], ranks: Ranks | None = None) -> list[Grade]:
        """The grades of whole responses."""
        found = [self.find(text) for text in texts]
        pairs = [(f.answer, e.answer) for f, e in zip(found, examples, strict=True)]
        grades = self.compare(pairs, ranks)
        rows = zip(grades, found, strict=True)
        return [
            Grade(False, "ambiguous") if g.status == "no_answer" and f.status == "ambiguous" else g for g, f in rows
        ]

    def compare(self, pairs: Sequence[Pair], ranks: Ranks | None = None) -> list[Grade]:
        """The grades of pairs. Each distinct pair that no text comparison settles goes to a worker once.

        ranks: these share the work; all must call this with the same pairs.
        """
        known = {pair: grade for pair in dict.fromkeys(pairs) if (grade := self.at_once(*pair)) is not None}
        asked = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if asked:
            known |= zip(asked, shared(asked, self.ask, ranks or Alone()), strict=True)
        for pair in asked:
            self.memory.put((self.by, *pair), known[pair])
        return [known[pair] for pair in pairs]

    def same(self, pairs: Sequence[Pair], ranks: Ranks | None = None) -> list[bool | None]:
        """Whether two answers of responses are equal: values of JSON, texts of programs, else as `compare` says."""
        if not self.kind.rule:
            return [grade.success for grade in self.compare(pairs, ranks)]
        plain = canonical if self.by == "json" else str.strip
        texts = [[None if text is None else plain(text) for text in pair] for pair in pairs]
        return [one is not None and one == other for one, other in texts]

    def at_once(self, answer: str | None, reference: str | None) -> Grade | None:
        """The grade of a pair where it needs no worker, or is remembered; else None."""
        if reference is None or not reference.strip() or reference in self._refused:
            return Grade(None, "reference_invalid", answer)
        if self.by == "choice":
            gold = letter(reference)
            return Grade.of(None if gold is None else answer == gold, answer)
        same = None if self.kind.rule else numbers.grade(answer, reference)
        if self.by == "exact" or same is True or (same is None and not self.kind.rule):
            return Grade.of(same, answer)
        return Grade.of(False, None) if answer is None else self.memory.get((self.by, answer, reference))

    def ask(self, pairs: Sequence[Pair]) -> list[Grade]:
        """The grades of pairs by the workers, this process alone. A call whose worker died is made once more."""
        more = (self.deadline, self.programs.sandbox, self.programs.unsafe) if self.kind.timed else ()
        calls = [(reference, answer, *more) for answer, reference in pairs]
        outcomes = self._map(self.kind.function, calls)
        again = [i for i, outcome in enumerate(outcomes) if outcome.status == "died"]
        for i, outcome in zip(again, self._map(self.kind.function, [calls[i] for i in again]), strict=True):
            outcomes[i] = outcome
        broken = [str(ref) for (_, ref), o in zip(pairs, outcomes, strict=True) if o.status in ("timeout", "died")]
        self._try_alone(broken)
        return [self._grade(*pair, outcome) for pair, outcome in zip(pairs, outcomes, strict=True)]

    def check(self, references: Sequence[str], ranks: Ranks | None = None) -> list[Grade]:
        """Whether references can be compared with at all: a success for each that can. `ranks` share the work.

        The others are remembered, by all ranks alike: rows with such a reference are not graded.
        """
        grades = shared(references, self._check, ranks or Alone())
        self._refused |= {ref for ref, grade in zip(references, grades, strict=True) if grade.success is not True}
        return grades

    def _check(self, references: Sequence[str]) -> list[Grade]:
        if not self.kind.module:
            answers = [letter(ref) if self.by == "choice" else numbers.reference_text(ref) for ref in references]
            return self.compare(list(zip(answers, references, strict=True)))
        seconds = (self.deadline,) if self.kind.timed else ()
        outcomes = self._map("check", [(reference, *seconds) for reference in references])
        return [self._checked(ref, outcome) for ref, outcome in zip(references, outcomes, strict=True)]

    def refuse_unsafe(self) -> None:
        """InputError, and the end of the workers, where programs would not be cut off from what they must be.

        `warning` says then what they are not cut off from, where the options allow that.
        """
        if not self.kind.timed:
            return
        if self.programs.sandbox:
            load_sandbox(self.programs.sandbox)
            return
        (outcome,) = self._map("shut_off", [()])
        try:
            self.warning = allowed(self.programs, self.by, outcome.value if outcome.status == "ok" else {})
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def _map(self, function: str, calls: Sequence[tuple[Any, ...]]) -> list[Outcome]:
        if not calls:
            return []
        deadline = self.deadline + (GRACE if self.kind.timed else 0.0)
        return self.pool.map(f"{self.kind.module}:{function}", calls, deadline)

    def _try_alone(self, references: Sequence[str]) -> None:
        """Find out whether these references hang without any answer; once for each."""
        new = [reference for reference in dict.fromkeys(references) if reference not in self._sound]
        outcomes = self._map("check", [(reference,) for reference in new])
        self._sound |= {ref: outcome.status == "ok" for ref, outcome in zip(new, outcomes, strict=True)}

    def _grade(self, answer: str | None, reference: str | None, outcome: Outcome) -> Grade:
        if outcome.status in ("timeout", "died"):
            status = "timeout" if self._sound.get(str(reference), True) else "reference_invalid"
            return Grade(False if status == "timeout" else None, status, answer, {"why": outcome.value})
        if outcome.status == "raised":
            blamed = self.kind.blame == "answer"
            return Grade(False if blamed else None, "ok" if blamed else "infra_error", answer, {"why": outcome.value})
        told = dict(outcome.value)
        success, late, unclear = told.pop("success"), told.pop("timeout", False), told.pop("ambiguous", False)
        if success is None:
            return Grade(None, "reference_invalid", answer, told)
        return Grade(success, "timeout" if late else "ambiguous" if unclear else "ok", answer, told)

    def _checked(self, reference: str, outcome: Outcome) -> Grade:
        fine = outcome.status == "ok" and outcome.value["success"]
        why = outcome.value if outcome.status != "ok" else outcome.value.get("why", "it does not equal itself")
        return Grade(True, "ok", reference) if fine else Grade(None, "reference_invalid", reference, {"why": why})


def shared(items: Sequence[T], work: Callable[[list[T]], list[R]], ranks: Ranks) -> list[R]:
    """`work(items)`, item i by rank i modulo their count; all ranks call it. An error of one is raised on all."""
    told = ranks.exchange(tried(work, list(items[ranks.index :: ranks.count])))
    error = next((found for found in told if isinstance(found, Exception)), None)
    if error is not None:
        raise error
    parts = [found for found in told if not isinstance(found, Exception)]
    return [parts[i % ranks.count][i // ranks.count] for i in range(len(items))]


def tried(work: Callable[[list[T]], R], items: list[T]) -> R | Exception:
    """What `work` gives or raises: what other ranks wait for must come in either case."""
    try:
        return work(items)
    except Exception as error:
        return error
