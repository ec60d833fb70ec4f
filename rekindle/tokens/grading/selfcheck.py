"""Before a run: can every reference be compared with at all? One that cannot would leave its prompt without a grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.core.ranks import Ranks
from rekindle.errors import InputError
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.rollouts import Example

MOST = 2_000
"""References that are tried: all where there are no more, else so many evenly spaced, and the rest is believed."""
TOLERATED = 0.05
"""Share of references that may fail; their prompts are left out of loss and statistics when they are drawn."""


@dataclass(frozen=True)
class Failure:
    """A reference that cannot be compared with. id: of its row; why: a few words."""

    id: str
    reference: str
    why: str


def self_check(grader: Grader, examples: Sequence[Example], ranks: Ranks | None = None) -> list[Failure]:
    """The failures among at most 2,000 of the references, in the data's order. `ranks` share the work."""
    rows = [examples[i * len(examples) // MOST] for i in range(MOST)] if len(examples) > MOST else list(examples)
    held = [(example.id, example.answer) for example in rows if example.answer is not None]
    grades = grader.check([reference for _, reference in held], ranks)
    pairs = zip(held, grades, strict=True)
    return [Failure(row, ref, str(g.info.get("why", g.status))) for (row, ref), g in pairs if g.success is not True]


def told(failures: Sequence[Failure], grader: Grader) -> str:
    """One sentence that names the first rows."""
    some = "; ".join(f"'{f.id}' ({f.why})" for f in failures[:3])
    more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"grading.by={grader.by} cannot use the reference of {some}{more}"


def refuse_unsound(grader: Grader, examples: Sequence[Example], ranks: Ranks | None = None) -> list[Failure]:
    """The failures, to be told; InputError where they are more than one in twenty."""
    grader.refuse_unsafe()
    failures = self_check(grader, examples, ranks)
    if len(failures) > TOLERATED * min(len(examples), MOST):
        grader.close()
        raise InputError(f"{told(failures, grader)}: repair these rows, or choose another grading.by")
    return failures
