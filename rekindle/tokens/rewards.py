"""The user's own reward functions, by the signatures of TRL (`f(prompts, completions, **columns)`) and verl.

They get the answer as the data holds it, a text or an object. Differs from TRL: a reward that is not finite, or a list
of the wrong length, is an error that names function and row.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rekindle.core.types import Metrics
from rekindle.errors import InputError
from rekindle.tokens.plugins import load_function
from rekindle.tokens.rollouts import Example, Rollouts

__all__ = ["Reward", "Rewarded", "Rewards", "load_function", "load_rewards"]

_BUILT_IN = ("prompts", "completions", "completion_ids")


@dataclass(frozen=True)
class Reward:
    """One reward function. verl: it takes verl's per-sample arguments (`solution_str`, `ground_truth`)."""

    name: str
    function: Callable[..., Any]
    weight: float = 1.0

    @property
    def verl(self) -> bool:
        """Whether the parameter names are those of verl's `compute_score`."""
        return "solution_str" in inspect.signature(self.function).parameters

    def __call__(self, rollouts: Rollouts) -> list[float | None]:
        """One reward a rollout, None where the function does not apply; InputError naming function and row."""
        if self.verl:
            return [self._number(row, self._verl(row, *pair)) for row, pair in enumerate(_pairs(rollouts))]
        answers = self._call(self._accepted(_columns(self.name, rollouts)))
        if isinstance(answers, str | bytes | Mapping) or not hasattr(answers, "__len__"):
            raise InputError(f"reward '{self.name}': returned a {type(answers).__name__}: return a list of rewards")
        if len(answers) != len(rollouts):
            raise InputError(
                f"reward '{self.name}': returned {len(answers)} rewards for {len(rollouts)} completions: match them"
            )
        return [self._number(row, value) for row, value in enumerate(answers)]

    def _verl(self, row: int, example: Example, text: str) -> Any:
        rule = example.meta.get("reward_model")
        truth = rule.get("ground_truth") if isinstance(rule, dict) else _answer(example)
        if truth is None:
            return None
        given = {"data_source": example.meta.get("data_source"), "solution_str": text, "ground_truth": truth}
        answer = self._call(self._accepted({**given, "extra_info": example.meta.get("extra_info")}))
        if not isinstance(answer, dict):
            return answer
        if "score" not in answer:
            raise InputError(f"reward '{self.name}', row {row}: the returned dict has no 'score': add it")
        return answer["score"]

    def _call(self, given: dict[str, Any]) -> Any:
        try:
            answer = self.function(**given)
            return asyncio.run(answer) if inspect.iscoroutine(answer) else answer
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputError(f"reward '{self.name}' raised {what}: fix the function") from error

    def _accepted(self, given: dict[str, Any]) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            taken = given
        else:
            taken = {p.name: given[p.name] for p in parameters if p.name in given}
        named = (p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        lacking = [p.name for p in named if p.default is p.empty and p.name not in taken]
        if lacking:
            raise InputError(
                f"reward '{self.name}': its parameter '{lacking[0]}' is no column of the data "
                f"(there: {', '.join(given)}): rename it or give it a default"
            )
        return taken

    def _number(self, row: int, value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                f"reward '{self.name}', row {row}: returned a {type(value).__name__}: return a number or None"
            ) from None
        if not math.isfinite(number):
            raise InputError(f"reward '{self.name}', row {row}: returned {number}: return a finite number or None")
        return number


@dataclass(frozen=True, eq=False)
class Rewarded:
    """What reward functions say of rollouts. score [B] float64; graded [B]: whether any function answered.

    success [B]: score >= the sum of the positive weights of the functions that answered the row, which is the score
    where each of these gives 1 and none of negative weight takes away. metrics: `reward/NAME` -> (sum, count) of a
    function's own rewards, unweighted, over the rows that it answered.
    """

    score: Float[Tensor, " B"]
    success: Bool[Tensor, " B"]
    graded: Bool[Tensor, " B"]
    metrics: Metrics


@dataclass(frozen=True)
class Rewards:
    """A weighted sum of reward functions."""

    rewards: tuple[Reward, ...]

    def __call__(self, rollouts: Rollouts) -> Rewarded:
        """Weighted sums over the functions that answered, 0 where none did; success as in `Rewarded`."""
        parts = self.parts(rollouts)
        columns = [(reward.weight, parts[reward.name]) for reward in self.rewards]
        rows = [[(w, v) for w, column in columns if (v := column[i]) is not None] for i in range(len(rollouts))]
        score = torch.tensor([sum(w * v for w, v in row) for row in rows], dtype=torch.float64)
        full = torch.tensor([sum(w for w, _ in row if w > 0) for row in rows], dtype=torch.float64)
        graded = torch.tensor([len(row) > 0 for row in rows], dtype=torch.bool)
        return Rewarded(score, graded & (score >= full), graded, _metrics(parts))

    def parts(self, rollouts: Rollouts) -> dict[str, list[float | None]]:
        """Function name -> its own rewards, unweighted, one a rollout; None where it does not apply."""
        return {reward.name: reward(rollouts) for reward in self.rewards}


def _metrics(parts: Mapping[str, Sequence[float | None]]) -> Metrics:
    given = {name: [value for value in column if value is not None] for name, column in parts.items()}
    return {f"reward/{name}": (sum(values), len(values)) for name, values in given.items()}


def load_rewards(specs: Sequence[str]) -> Rewards:
    """The reward functions `FILE.py:function[=weight]` of the command line; InputError naming what is wrong."""
    rewards = tuple(_reward(spec) for spec in specs)
    names = [reward.name for reward in rewards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not rewards or twice is not None:
        what = "no reward function given" if twice is None else f"reward '{twice}' is given twice"
        raise InputError(f"{what}: give FILE.py:function[=weight], each once")
    return Rewards(rewards)


def _reward(spec: str) -> Reward:
    head, _, tail = spec.rpartition(":")
    name, equals, weight = tail.partition("=")
    if not head or not name:
        raise InputError(f"reward '{spec}': not of the form FILE.py:function[=weight]")
    try:
        number = float(weight) if equals else 1.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"reward '{spec}': the weight '{weight}' is not a number: write FILE.py:function=0.5")
    return Reward(f"{Path(head).name}:{name}", load_function(f"{head}:{name}"), number)


def _pairs(rollouts: Rollouts) -> list[tuple[Example, str]]:
    return list(zip(rollouts.example, rollouts.text, strict=True))


def _answer(example: Example) -> Any:
    """The answer as the data holds it; that of an example of no file is a text anyway."""
    return example.meta.get("answer", example.answer)


def _columns(name: str, rollouts: Rollouts) -> dict[str, Any]:
    """TRL's arguments: the built-in ones, then every data column as a list; message lists where the prompt is one."""
    examples = rollouts.example
    names = list(dict.fromkeys(column for example in examples for column in example.meta))
    taken = next((column for column in names if column in _BUILT_IN), None)
    if taken is not None:
        raise InputError(f"reward '{name}': the data column '{taken}' collides with TRL's argument: rename the column")
    more = [column for column in names if column not in ("messages", "answer")]
    columns = {column: [example.meta.get(column) for example in examples] for column in more}
    chats = [example.meta.get("messages") for example in examples]
    return {
        "prompts": [example.prompt if chat is None else chat for example, chat in zip(examples, chats, strict=True)],
        "completions": [
            text if chat is None else [{"role": "assistant", "content": text}]
            for text, chat in zip(rollouts.text, chats, strict=True)
        ],
        "completion_ids": [ids[mask].tolist() for ids, mask in zip(rollouts.ids, rollouts.mask, strict=True)],
        "id": [example.id for example in examples],
        "answer": [_answer(example) for example in examples],
        **columns,
    }
