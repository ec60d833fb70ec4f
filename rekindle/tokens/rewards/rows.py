"""What the rows of a batch offer to reward functions: the data's columns, ground truths, prompts as texts.

Every value is a copy of the row's own: the rows of a group share one example, and so do the steps that draw it again. A
function that changes what it is handed would otherwise change the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.tasks.layouts import FOREIGN

_VERL_TURNS = 2  # verl's single-turn agent loop counts the prompt and the response
_OWN = ("messages", "answer")


@dataclass(eq=False)
class Names:
    """The columns of the data, by the names that functions get them under: of all rows that were seen so far."""

    seen: dict[str, None] = field(default_factory=dict)

    def see(self, examples: Iterable[Example]) -> tuple[str, ...]:
        """All names, those of `examples` included; `answer` is one where any row has one."""
        for example in examples:
            hidden = (*_OWN, "completions") if "rewards" in example.meta else _OWN  # the data's own, to be learned from
            self.seen |= dict.fromkeys(_name(column) for column in example.meta if column not in hidden)
            if example.meta.get("answer", example.answer) is not None:
                self.seen["answer"] = None
        return tuple(self.seen)


def _name(column: str) -> str:
    return "messages" if column == FOREIGN else column


def columns(examples: Sequence[Example], names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns `names` of the data, a value a row; None where a row lacks one."""
    places = {name: FOREIGN if name == "messages" else name for name in names if name != "answer"}
    columns = {name: [deepcopy(e.meta.get(place)) for e in examples] for name, place in places.items()}
    return {**columns, **({"answer": [answer(example) for example in examples]} if "answer" in names else {})}


def refuse_names(name: str, columns: Mapping[str, Any], own: Sequence[str]) -> None:
    """InputError where a data column has the name of an argument."""
    taken = next((column for column in columns if column in own), None)
    if taken is not None:
        raise InputError(f"reward '{name}': the data column '{taken}' collides with an argument: rename the column")


def answer(example: Example) -> Any:
    """The answer as the data holds it; that of an example of no file is a text anyway."""
    return deepcopy(example.meta.get("answer", example.answer))


def truth(example: Example) -> Any:
    """verl's ground truth: that of `reward_model`, else the answer; None where there is none."""
    rule = example.meta.get("reward_model")
    own = rule.get("ground_truth") if isinstance(rule, dict) else None
    return answer(example) if own is None else deepcopy(own)


def extra_info(example: Example) -> dict[str, Any]:
    """The row's `extra_info` with what verl adds to it, a new dict each time."""
    own = deepcopy(example.meta.get("extra_info"))
    return {**(own if isinstance(own, dict) else {}), "num_turns": _VERL_TURNS, "rollout_reward_scores": {}}


def chat(example: Example) -> list[dict[str, str]] | None:
    """The prompt's messages, None where the prompt is a text."""
    return deepcopy(example.meta.get("messages"))


def text_of(example: Example) -> str:
    """The prompt as a text; of messages, their texts, a line each."""
    messages = chat(example)
    return example.prompt if messages is None else "".join(f"{message['content']}\n" for message in messages)


def all_rows(rollouts: Rollouts) -> tuple[int, ...]:
    """The numbers of all rows."""
    return tuple(range(len(rollouts)))


def completion_ids(rollouts: Rollouts) -> list[list[int]]:
    """The tokens of each response, the end token included."""
    return [ids[mask].tolist() for ids, mask in zip(rollouts.ids, rollouts.mask, strict=True)]


def unanswered(examples: Sequence[Example]) -> Rollouts:
    """An empty response to each example: what a function is called with can be told from it."""
    count = len(examples)
    nothing = torch.zeros(count, 0)
    return Rollouts(
        example=examples,
        prompt=PromptRows(((),) * count),
        ids=nothing.long(),
        mask=nothing.bool(),
        logp=nothing,
        logp_sampled=nothing,
        entropy=nothing,
        text=[""] * count,
        finish=["eos"] * count,
        group=torch.zeros(count, dtype=torch.long),
        uid=torch.arange(count),
    )
