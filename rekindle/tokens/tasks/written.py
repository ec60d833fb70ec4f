"""Rows that bring responses: pairs, demonstrations and scored completions, each brought to the same few columns.

Afterwards `prompt` holds the prompt, and the responses are texts: `chosen` and `rejected`, or `demonstration`, or the
list `completions` with the numbers `rewards`. Names as in TRL's "Dataset formats and types".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.tasks.messages import Message, conversation, kind, read_response
from rekindle.tokens.tasks.shapes import Columns

BROUGHT: Mapping[str, str] = MappingProxyType(
    {
        "chosen": "prompt, chosen and rejected (data_layout=preference)",
        "rejected": "prompt, chosen and rejected (data_layout=preference)",
        "demonstration": "prompt and completion (data_layout=demonstration), or messages (data_layout=messages)",
        "completions": "prompt, completion and reward (data_layout=scored), or prompt, completions and rewards "
        "(data_layout=scored_lists)",
        "rewards": "prompt, completion and reward (data_layout=scored), or prompt, completions and rewards "
        "(data_layout=scored_lists)",
    }
)
"""Column that a method may need -> the columns of a file that give it."""
QUESTIONS = ("question", "problem", "instruction", "input", "Question", "Problem")
"""Names that the prompt's column has elsewhere: where one is there, a pair's common beginning is not its prompt."""
_SAME = "columns 'chosen' and 'rejected': hold the same response: change one or drop the row"
_TURN = "\n\nAssistant:"  # where a prompt ends in Anthropic's hh-rlhf
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ROLES |= {"tool": "tool", "observation": "tool"}


def is_pair(row: Columns) -> bool:
    """Whether a pair's prompt is a column `prompt`, or stands in the pair itself."""
    return row.get("prompt") is not None or not any(name in row for name in QUESTIONS)


def pair(row: Columns) -> Columns:
    """The row with `prompt`, `chosen` and `rejected`; without a prompt, that is the beginning which the two share.

    InputError naming a column that holds no response, or two that hold the same.
    """
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if chosen is not None and chosen == rejected:
        raise InputError(_SAME)
    if isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _talks(prompt, chosen, rejected)
    elif kind(chosen) != kind(rejected):
        raise InputError(
            f"columns 'chosen' and 'rejected': are {kind(chosen)} and {kind(rejected)}: write both as texts or both as "
            "lists of messages"
        )
    elif prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        at = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:at], chosen[at:], rejected[at:]
    texts = {"chosen": chosen, "rejected": rejected}
    texts = {name: read_response(f"column '{name}'", text) for name, text in texts.items()}
    if texts["chosen"] == texts["rejected"]:
        raise InputError(_SAME)
    return {**row, "prompt": prompt, **texts}


def demonstration(row: Columns) -> Columns:
    """The row with `demonstration` in the place of `completion`; InputError where that is no response."""
    text = read_response("column 'completion'", row.get("completion"))
    return {**_without(row, "completion"), "demonstration": text}


def talk(column: str, row: Columns) -> Columns:
    """The row of a conversation (`column`, under `prompt`), its last message as `demonstration`, the others as prompt.

    Messages may also have `from` and `value` instead of `role` and `content`. InputError where the last is not the
    assistant's.
    """
    told, where = row.get("prompt"), f"column '{column}'"
    if not isinstance(told, list):
        raise InputError(f"{where}: must be a list of messages, not {kind(told)}: change it")
    messages = conversation(where, [_modern(f"{where}, message {n}", one) for n, one in enumerate(told, start=1)])
    if not messages or messages[-1]["role"] != "assistant":
        last = f"the last message has role '{messages[-1]['role']}'" if messages else "holds no message"
        raise InputError(f"{where}: {last}: end with role 'assistant' or drop the row")
    return {**row, "prompt": messages[:-1], "demonstration": messages[-1]["content"]}


def scored(row: Columns) -> Columns:
    """The row with one entry in `completions` and `rewards`: `completion` and `reward`; InputError for other values."""
    text = read_response("column 'completion'", row.get("completion"))
    reward = _number("column 'reward'", row.get("reward"))
    return {**_without(row, "completion", "reward"), "completions": [text], "rewards": [reward]}


def labelled(row: Columns) -> Columns:
    """The row with one entry in `completions` and `rewards`, 1 where `label` is true and 0 where it is false."""
    text, label = read_response("column 'completion'", row.get("completion")), row.get("label")
    if not isinstance(label, bool):
        raise InputError(
            f"column 'label': must be true or false, not {kind(label)}: change it, write the number as 'reward', or "
            "set data_layout=demonstration to leave it out"
        )
    return {**_without(row, "completion", "label"), "completions": [text], "rewards": [float(label)]}


def scored_lists(row: Columns) -> Columns:
    """The row with `completions` as texts and `rewards` as numbers; InputError for lists that do not go together."""
    texts, rewards = row.get("completions"), row.get("rewards")
    for name, value in (("completions", texts), ("rewards", rewards)):
        if not isinstance(value, list) or not value:
            what = "an empty list" if isinstance(value, list) else kind(value)
            raise InputError(
                f"column '{name}': must be a list that is not empty, not {what}: change it or drop the row"
            )
    assert isinstance(texts, list) and isinstance(rewards, list)
    if len(texts) != len(rewards):
        raise InputError(
            f"columns 'completions' and 'rewards': have {len(texts)} and {len(rewards)} entries: give each response a "
            "reward"
        )
    read = [read_response(f"column 'completions', entry {n}", text) for n, text in enumerate(texts, start=1)]
    given = [_number(f"column 'rewards', entry {n}", reward) for n, reward in enumerate(rewards, start=1)]
    return {**row, "completions": read, "rewards": given}


def _number(where: str, value: object) -> float:
    # Compared, not converted: an integer may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        shown = f"{value}" if isinstance(value, float) else kind(value)
        raise InputError(f"{where}: must be a finite number, not {shown}: change it or drop the row")
    return float(value)


def _without(row: Columns, *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def _modern(where: str, message: object) -> object:
    """A message with `role` and `content` where it has ShareGPT's `from` and `value`."""
    if not isinstance(message, dict) or "from" not in message or "role" in message:
        return message
    role = _ROLES.get(str(message["from"]))
    if role is None:
        raise InputError(f"{where}: 'from' is '{message['from']}', none of {', '.join(_ROLES)}: change it")
    return {"role": role, "content": message.get("value")}


def _shared(chosen: str, rejected: str) -> int:
    """Where the beginning that two texts share ends: at hh-rlhf's turn of the assistant, else as in TRL's
    `extract_prompt`, which leaves one space to the responses."""
    size = min(len(chosen), len(rejected))
    at = next((i for i in range(size) if chosen[i] != rejected[i]), size)
    turn = chosen.rfind(_TURN, 0, at)
    at = at if turn < 0 else turn + len(_TURN)
    at -= 1 if turn < 0 and chosen[at - 1 : at] == " " else 0
    if not chosen[:at].strip():
        raise InputError(
            "columns 'chosen' and 'rejected': share no beginning, and there is no 'prompt': add one, or name its "
            "column by data_prompt"
        )
    return at


def _talks(prompt: object, chosen: list[Any], rejected: list[Any]) -> tuple[object, list[Message], list[Message]]:
    """(prompt, chosen, rejected) of conversations that may repeat the prompt's messages."""
    good, bad = conversation("column 'chosen'", chosen), conversation("column 'rejected'", rejected)
    if isinstance(prompt, list):
        begun = conversation("column 'prompt'", prompt)
        return prompt, _rest(begun, good), _rest(begun, bad)
    size = min(len(good), len(bad))
    at = next((i for i in range(size) if good[i] != bad[i]), size)
    if prompt is None or at == 0:
        return (good[:at] if prompt is None else prompt), good[at:], bad[at:]
    if all(message["content"] != prompt for message in good[:at]):
        raise InputError(
            "column 'chosen': its messages before the response do not hold the text in 'prompt': repeat it there, or "
            "write the response alone"
        )
    return good[:at], good[at:], bad[at:]


def _rest(begun: list[Message], told: list[Message]) -> list[Message]:
    return told[len(begun) :] if told[: len(begun)] == begun else told
