"""What a task is: prompts in named splits, an answer extractor, a grader, and the settings that belong to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rekindle.tokens.rollouts import Example


@dataclass(frozen=True)
class Derivation:
    """How a response reached its answer.

    valid: every written step is legal and true, and the last one yields the stated answer.
    key: the order of operations, white space normalised: two responses with one key are the same derivation.
    way: the name of the way of working, None where it is none of the known ones.
    """

    valid: bool
    key: str
    way: str | None


@runtime_checkable
class Task(Protocol):
    """Prompts and their verifier. Pure and picklable; `grade` never raises on any text."""

    name: str
    version: int
    profile: Mapping[str, Any]
    """Settings that belong to the task and not to a method: dotted option -> value."""
    system_prompt: str | None
    ways: tuple[str, ...]
    """Names of the known ways of working, () where the task knows none."""
    step_delimiters: tuple[str, ...]
    """Strings that end a reasoning step: a token whose text holds one closes its step."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are; "train" is always among them."""
        ...

    def split(self, name: str) -> Sequence[Example]:
        """The examples of split `name` ("train", "heldout", "ood"); ValueError naming the splits there are."""
        ...

    def extract(self, text: str) -> str | None:
        """The normalised final answer in a response, None where there is none. This is what votes."""
        ...

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Whether an extracted answer equals the reference; None only where the reference cannot be graded."""
        ...

    def well_formed(self, text: str) -> bool:
        """Whether a response states an answer in the form asked for; EVOL-RL scores the others -1."""
        ...

    def steps(self, text: str) -> str:
        """The written steps of a response, without the final answer: what novelty compares."""
        ...

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """How the response got there; None where the task has no notion of it."""
        ...
