"""What the training data shows before the first step: prompts that stand twice with unlike answers, a single answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.lazy import looked_at
from rekindle.train.events import Log
from rekindle.train.guards import NAMED
from rekindle.train.loud import Level, Listener, warn
from rekindle.train.settings import Labelling, parts

if TYPE_CHECKING:
    from rekindle.train.run import Run

FEW = 8
"""Rows that data has at least, for a single answer among them to say something. House."""
RULES = ("json", "code")
"""`grading.by` whose reference is a schema or a test, which all rows may share."""


def warn_of_data(run: Run, log: Log, heard: Listener) -> None:
    """Warn of what the references of the data show, where the method reads them."""
    config = run.resolved.config
    if any(isinstance(part, Labelling) and part.needs_truth is True for part in parts(run.resolved.record)):
        rows = list(looked_at(run.examples))
        levels = [contradicting(rows)]
        judged = run.verifier.rewards is not None or config.grading.by in RULES
        levels += [] if judged else [one_answer(rows)]
        warn(run, levels, log, heard)


def contradicting(rows: Iterable[Example]) -> Level:
    """Prompts that stand under two ids with different answers."""
    answers: dict[str, tuple[str, str]] = {}
    pairs: list[str] = []
    for row in rows:
        if row.answer is None:
            continue
        first, answer = answers.setdefault(row.prompt, (row.id, row.answer))
        if answer != row.answer:
            pairs.append(f"{first} ({answer}) and {row.id} ({row.answer})")
    numbers = {"rows": len(pairs), "first": ", ".join(pairs[:NAMED])}
    remedy = "keep one of each: a response cannot be right by both"
    return Level("prompts stand in the data twice with different answers", len(pairs), 0, numbers, remedy)


def one_answer(rows: Sequence[Example]) -> Level:
    """Data whose every row has the same answer."""
    answers = [row.answer for row in rows if row.answer is not None]
    same = len(answers) >= FEW and len(set(answers)) == 1
    numbers = {"rows": len(answers), "answer": answers[0][:40] if same else ""}
    remedy = "look at the column of the answers: saying it always would be right"
    return Level("all rows of the data have one answer", float(same), 0, numbers, remedy)
