"""What grading a response gives: right, wrong or not known, with a status that says why, never a silent 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    # Workers import this module, and rollouts import torch.
    from rekindle.tokens.rollouts import Example

Status = Literal["ok", "no_answer", "ambiguous", "timeout", "reference_invalid", "infra_error"]
STATUSES: tuple[Status, ...] = ("ok", "no_answer", "ambiguous", "timeout", "reference_invalid", "infra_error")
UNGRADED: tuple[Status, ...] = ("reference_invalid", "infra_error")
"""The statuses that say nothing of the response: the row is left out of loss and statistics."""
SETTLED: tuple[Status, ...] = ("ok", "no_answer", "ambiguous", "reference_invalid")
"""The statuses that depend on the texts alone, not on how busy the machine was; only these are remembered."""


@dataclass(frozen=True)
class Grade:
    """The grade of one response. success: None where it is ungraded, which leaves the row out of loss and statistics.

    status: "ok" (compared), "no_answer" (none was found), "ambiguous" (several that differ), "timeout" (the response
    ran past its limits of time or memory): of these only "ok" can be a success. "reference_invalid" (the reference
    cannot be graded) and "infra_error" (the grader itself failed) are ungraded. extracted: the answer that was found.
    info: plain values besides, such as {"share": 0.5} of the passed tests, or {"why": "..."}.
    """

    success: bool | None
    status: Status
    extracted: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.success is None) != (self.status in UNGRADED) or (self.success and self.status != "ok"):
            raise ValueError(f"a grade of status '{self.status}' cannot have success={self.success}")

    @staticmethod
    def of(success: bool | None, extracted: str | None) -> Grade:
        """The grade that a plain comparison gives: None means that the reference cannot be graded."""
        if success is None:
            return Grade(None, "reference_invalid", extracted)
        return Grade(success, "no_answer" if extracted is None and not success else "ok", extracted)


@runtime_checkable
class GradesRows(Protocol):
    """A task that grades whole responses itself. One grade a row, in order; never raises on any text."""

    def grade_rows(self, texts: Sequence[str], examples: Sequence[Example]) -> list[Grade]:
        """The grades of responses `texts` to `examples`."""
        ...
