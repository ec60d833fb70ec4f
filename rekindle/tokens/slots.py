"""The slots of a collector of answers, and what a collector asks of a run of the language wing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from rekindle.core.types import Batch, Need
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.rules import StepRule


@runtime_checkable
class TokenRun(Protocol):
    """What a collector asks of a run of the language wing."""

    prompts_per_step: int
    group_size: int
    max_tokens: int
    key: Tensor
    verifier: Any
    embed: Any
    kept: dict[str, Tensor]

    @property
    def examples(self) -> Sequence[Example]:
        """All training prompts."""
        ...

    def prompt_rows(self, examples: Sequence[Example]) -> PromptRows:
        """Prompts as token ids."""
        ...

    def next_examples(self, count: int) -> Sequence[Example]:
        """The next `count` prompts."""
        ...

    def sample(self, examples: Sequence[Example], rule: StepRule | None = None) -> Rollouts:
        """N responses to each prompt, every call with group ids and uids of its own. rule: how a token is drawn."""
        ...

    def greedy(self, examples: Sequence[Example]) -> Rollouts:
        """The most likely response to each prompt."""
        ...

    def recorded(self, rows: Sequence[tuple[Example, Sequence[tuple[str, float]]]]) -> Rollouts:
        """Responses that the data brings, each with its score: a group an example, with ids of its own."""
        ...

    def score(self, batch: Batch, also: Sequence[Need] = ()) -> Batch:
        """The batch with the columns that the record's parts need, and those of `also`."""
        ...

    def observe(self, rollouts: Rollouts, verdicts: Verdicts, trained: Tensor) -> None:
        """Told of every round: all samples, their verdicts, and the rows among them that may be trained on."""
        ...


Judge = Callable[[Rollouts], Verdicts]


@runtime_checkable
class Prompts(Protocol):
    """(run, count) -> the prompts to roll out; may read the run's memory."""

    def __call__(self, run: Any, count: int) -> Sequence[Example]:
        """`count` examples."""
        ...


@runtime_checkable
class LeavesRoom(Protocol):
    """Prompts that leave room in the batch for rows that a `source` part brings."""

    def wanted(self, run: Any) -> int:
        """How many prompts of this step are rolled out."""
        ...


@runtime_checkable
class Draw(Protocol):
    """(run, examples, judge) -> Rollouts; `judge` is the label, for those that go on until it says enough."""

    def __call__(self, run: Any, examples: Sequence[Example], judge: Judge) -> Rollouts:
        """Responses to every example, grouped."""
        ...


@runtime_checkable
class Pick(Protocol):
    """(Rollouts, Verdicts, G) -> the rows of each prompt that are trained on; others only vote or set a baseline."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, size: int) -> Int[Tensor, " N"]:
        """Row indices."""
        ...


@runtime_checkable
class Shape(Protocol):
    """(Rollouts, Verdicts, run) -> Verdicts with another score."""

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts, run: Any) -> Verdicts:
        """Sees all samples of each prompt."""
        ...


@runtime_checkable
class Select(Protocol):
    """(Rollouts, Verdicts) -> rows worth training on. Asked again, on fresh prompts, for up to `max_rounds` rounds."""

    @property
    def max_rounds(self) -> int:
        """Rounds of sampling at the most."""
        ...

    def __call__(self, rollouts: Rollouts, verdicts: Verdicts) -> Int[Tensor, " N"]:
        """Row indices; a prompt is kept or dropped as a whole."""
        ...


@runtime_checkable
class Column(Protocol):
    """(Rollouts, tokenizer-aware run) -> a tensor column that needs text or token ids."""

    name: ClassVar[str]

    def __call__(self, rollouts: Rollouts, run: Any) -> Tensor:
        """One value a row or a position."""
        ...
