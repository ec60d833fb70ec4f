"""The report of `rekindle data check`: how what a survey found is told, as facts, warnings and refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rekindle.tokens.grading.base import Grade
from rekindle.tokens.grading.grader import KINDS, Grader
from rekindle.tokens.grading.programs import OWN, Programs
from rekindle.tokens.grading.selfcheck import TOLERATED
from rekindle.tokens.tasks.survey import Finding, Survey

Number = TypeVar("Number", int, float)
UNSTATED = "rows whose written solution states no answer (no box, no ####), so that they count as rows without one"


@dataclass
class DataReport:
    """What was found. facts: name -> value as JSON holds it, in order. warnings, refusals: sentences."""

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def describe(
    report: DataReport, found: Survey, context: int | None, max_tokens: int, *, rewarded: bool = False
) -> None:
    """Columns, lengths, duplicates and rows without answers.

    context: positions of the model that counted. rewarded: reward functions judge, and need no answers.
    """
    facts = report.facts
    facts["columns"] = {name: dict(kinds) for name, kinds in found.columns.items()}
    facts["prompt characters"] = spread_of(found.characters)
    if found.tokens:
        _lengths(report, found, context, max_tokens)
    prompts = len(found.characters)  # of several rows of one prompt that are gathered, one
    facts["label-free share"] = share(prompts - found.labelled, prompts + found.refused.count)
    _brought(report, found, max_tokens)
    if found.labelled == 0 and not rewarded and prompts and not found.written:
        report.warnings.append("no row has an answer: only label-free methods or --reward can train on this")
    tell_of(report.refusals, found.refused, "rows that cannot be read")
    tell_of(report.refusals, found.same_id, "rows whose id another row has")
    if not rewarded:
        tell_of(report.warnings, found.unstated, UNSTATED)
    tell_of(report.warnings, found.duplicates, "rows that repeat an earlier prompt")
    conflicts = report.refusals if found.gathers else report.warnings
    tell_of(conflicts, found.conflicts, "prompts that come again with another answer")
    tell_of(report.warnings, found.odd, "prompts with characters that a reader does not see")
    facts |= {"duplicates": found.duplicates.count, "conflicts": found.conflicts.count}


def _brought(report: DataReport, found: Survey, max_tokens: int) -> None:
    """The responses that the rows bring, by column, and their rewards."""
    facts = report.facts
    if not found.written:
        return
    if found.gathers:
        facts["prompts"] = len(found.characters)
    facts["responses"] = sum(len(lengths) for lengths in found.written.values())
    for what, columns in (("characters", found.written), ("tokens", found.written_tokens)):
        facts |= {f"{name.removesuffix('s')} {what}": spread_of(lengths) for name, lengths in columns.items()}
    if found.rewards:
        facts["rewards"] = spread_of(found.rewards)
    lengths = [length + 1 for column in found.written_tokens.values() for length in column]  # and the end token
    if over := sum(length > max_tokens for length in lengths):
        report.warnings.append(
            f"{100 * share(over, len(lengths)):.1f} % of the responses have more than {max_tokens} tokens, the end "
            "token counted: methods that learn from them refuse those; shorten or drop them, or raise --max-tokens"
        )


def spread_of(lengths: Sequence[Number]) -> dict[str, Number]:
    """Least, median, 95th percentile (of the sorted lengths, the lower neighbour) and greatest; empty for none."""
    if not lengths:
        return {}
    order = sorted(lengths)
    at = {"least": 0, "median": (len(order) - 1) // 2, "95 %": (len(order) - 1) * 95 // 100, "greatest": -1}
    return {name: order[i] for name, i in at.items()}


def share(part: int, whole: int) -> float:
    """A part of a whole, 0 of nothing."""
    return part / whole if whole else 0.0


def _lengths(report: DataReport, found: Survey, context: int | None, max_tokens: int) -> None:
    facts = report.facts
    facts["prompt tokens"] = spread_of(found.tokens)
    facts |= {"context": context, "max_tokens": max_tokens}
    no_room(report, found, context, max_tokens)
    if found.solutions:
        facts["solution tokens"] = spread_of(found.solutions)
        facts["solutions cut"] = share(sum(length > max_tokens for length in found.solutions), len(found.solutions))
        if facts["solutions cut"] > 0:
            report.warnings.append(
                f"{100 * facts['solutions cut']:.1f} % of the written solutions are longer than {max_tokens} tokens: "
                "responses of such a length would be cut, and fail"
            )


def no_room(report: DataReport, found: Survey, context: int | None, max_tokens: int, held: str = "") -> None:
    """Prompts that with `max_tokens` exceed the context. held: "held-out " where they are not trained on."""
    over = sum(context is not None and length + max_tokens > context for length in found.tokens)
    report.facts[f"{held}prompts without room"] = share(over, len(found.tokens))
    if over:
        report.refusals.append(
            f"{over} of {len(found.tokens)} {held}prompts leave no room for {max_tokens} tokens in the model's context "
            f"of {context}: shorten or drop them, or give a smaller --max-tokens"
        )


def references(report: DataReport, found: Survey, by: str, rule: str, held: str = "") -> None:
    """Which references the grading `by` cannot use. held: as in `no_room`."""
    grader = Grader(by, rule if by not in ("json", "code") else "boxed")
    try:
        distinct = list(dict.fromkeys(answer for _, answer in found.references))
        grades = dict(zip(distinct, grader.check(distinct), strict=True))
    finally:
        grader.close()
    gold(report, ((place, answer, grades[answer]) for place, answer in found.references), by, held)


def refuse_unsafe(by: str, programs: Programs) -> None:
    """InputError where a run that grades `by` would be refused here, for what its programs could reach, or for a
    sandbox that cannot be loaded."""
    if KINDS[by].timed or programs != OWN:
        grader = Grader(by, "boxed", workers=1, programs=programs)
        try:
            grader.refuse_unsafe()
        finally:
            grader.close()


def gold(report: DataReport, graded: Iterable[tuple[str, str, Grade]], by: str, held: str = "") -> None:
    """What became of (place, reference, grade). A run refuses training data of which more than a few fail."""
    failed, of = Finding(), 0
    for where, answer, grade in graded:
        of += 1
        if grade.success is not True:
            failed.add(f"{where}: {answer if len(answer) <= 40 else answer[:37] + '...'!r}")
    report.facts |= {f"{held}references": of, f"{held}references that fail": failed.count}
    tell_of(report.warnings, failed, f"{held}references that '{by}' cannot grade, so that their rows would be left out")
    if of and failed.count == of:
        report.refusals.append(f"no {held}reference can be graded by '{by}': choose another --grade")
    elif not held and failed.count > TOLERATED * of:
        report.refusals.append(
            f"{failed.count} of {of} references cannot be graded by '{by}', and a run accepts {TOLERATED:.0%}: repair "
            "these rows, or choose another --grade"
        )


def tell_of(into: list[str], found: Finding, what: str) -> None:
    """One sentence for a finding that is there: how many, and the first few."""
    if found.count:
        more = "; ..." if found.count > len(found.first) else ""
        into.append(f"{what}: {found.count} ({'; '.join(found.first)}{more})")
