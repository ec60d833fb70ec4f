"""A world of tables: responses walk through a finite automaton, and a policy is a table of logits over its states.

Method records run on it unchanged, since a response has token ids, a mask, a text and an answer like any other. Tokens
that the environment draws (a noisy outcome) are off the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rekindle.core.types import Batch
from rekindle.tokens.rewards import Rewards
from rekindle.tokens.rollouts import Example, PromptRows
from rekindle.tokens.tasks.base import Derivation


@dataclass(kw_only=True, eq=False)
class TableTask:
    """The verifier's side of a world: what a text's answer is. Answers are right where they equal the reference.

    compared: the part of a text that novelty and the count of distinct answers look at.
    """

    examples: Sequence[Example]
    answer: Callable[[str], str | None]
    compared: Callable[[str], str] = str
    step_delimiters: tuple[str, ...] = ("\n",)
    name: str = "table"
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    ways: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """There is one."""
        return ("train",)

    def split(self, name: str) -> Sequence[Example]:
        """The prompts."""
        if name != "train":
            raise ValueError(f"a table world has the split 'train', not '{name}'")
        return self.examples

    def extract(self, text: str) -> str | None:
        """The answer of a text."""
        return self.answer(text)

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Equality; None where there is no reference."""
        return None if reference is None else answer == reference

    def well_formed(self, text: str) -> bool:
        """Every text is."""
        return True

    def steps(self, text: str) -> str:
        """What novelty compares."""
        return self.compared(text)

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """None: a table knows no derivations."""
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """States [S], tokens [V], table rows [R]; the logits of a state are table[row[state]] + bias[state].

    tokens: the text of each. start: prompt text -> its first state. follow: the state after a token, -1 at the end.
    bias: fixed; minus infinity forbids a token. chosen: False where the environment draws. table: the start weights.
    teacher: the table of another policy to learn from, where there is one; teacher_row: its rows, where not `row`.
    rewards: what scores responses, where not the comparison of their answers does.
    embed: texts -> vectors, for novelty; None: the one-hot vectors of the whole texts' tokens.
    """

    tokens: tuple[str, ...]
    start: Mapping[str, int]
    follow: Int[Tensor, "S V"]
    row: Int[Tensor, " S"]
    bias: Float[Tensor, "S V"]
    chosen: Bool[Tensor, " S"]
    table: Float[Tensor, "R V"]
    length: int
    task: TableTask
    embed: Callable[[Sequence[str]], Tensor] | None = None
    teacher: Float[Tensor, "K V"] | None = None
    teacher_row: Int[Tensor, " S"] | None = None
    rewards: Rewards | None = None

    def taught(self) -> World:
        """The world of the teacher's policy; ValueError where there is none."""
        if self.teacher is None:
            raise ValueError("this world has no teacher")
        row = self.row if self.teacher_row is None else self.teacher_row
        return replace(self, table=self.teacher, row=row)

    def prompt_rows(self, examples: Sequence[Example]) -> PromptRows:
        """Prompts as rows of ids: the start state is the only id."""
        return PromptRows(tuple((self.start[example.prompt],) for example in examples))

    def states(self, batch: Batch) -> Int[Tensor, "B T"]:
        """The state in which each token was drawn; what comes after the end of a row means nothing."""
        if not isinstance(batch.prompt, PromptRows):
            raise TypeError(f"a table policy reads PromptRows, the batch holds {type(batch.prompt).__name__}")
        state = torch.tensor([ids[-1] for ids in batch.prompt.ids], dtype=torch.int64)
        found = torch.zeros(batch.action.shape, dtype=torch.int64)
        for t in range(batch.action.shape[1]):
            found[:, t] = state
            state = self.follow[state, batch.action[:, t]].clamp(min=0)
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return "".join(self.tokens[i] for i in ids)


def free_world(
    follow: Int[Tensor, "S V"],
    table: Float[Tensor, "S V"],
    *,
    tokens: Sequence[str],
    start: Sequence[int],
    length: int,
    task: TableTask,
    bias: Float[Tensor, "S V"] | None = None,
) -> World:
    """A world in which the policy draws every token and each state has a row of its own; `start` is by example."""
    states = len(follow)
    return World(
        tokens=tuple(tokens),
        start={example.prompt: state for example, state in zip(task.examples, start, strict=True)},
        follow=follow,
        row=torch.arange(states),
        bias=torch.zeros_like(table) if bias is None else bias,
        chosen=torch.ones(states, dtype=torch.bool),
        table=table,
        length=length,
        task=task,
    )


@dataclass(frozen=True)
class Spelled:
    """What a tokenizer returns."""

    input_ids: list[int]


@dataclass(frozen=True)
class Spelling:
    """The tokenizer of a world: token ids <-> texts."""

    tokens: tuple[str, ...]
    eos_token_id: int | None = None

    def __call__(self, text: str, add_special_tokens: bool = False) -> Spelled:
        """The text as token ids; there are no special tokens."""
        return Spelled(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return "".join(self.tokens[i] for i in ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, longest token first; ValueError where no token fits."""
        ids: list[int] = []
        order = sorted(range(len(self.tokens)), key=lambda i: -len(self.tokens[i]))
        while text:
            found = next((i for i in order if text.startswith(self.tokens[i])), None)
            if found is None:
                raise ValueError(f"no token of the world begins '{text[:20]}'")
            ids.append(found)
            text = text[len(self.tokens[found]) :]
        return ids
