"""The signatures of TRL, verl (a sample or a batch a call), OpenRLHF and AReaL: what each is handed, what each returns.

Read from TRL 1.16.0, verl 0.9.1, OpenRLHF and AReaL. Where ours differs from a library, its class says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.rewards import rows
from rekindle.tokens.rewards.base import Call, Cell, Convention, Log, TrainerState, number, scalar
from rekindle.tokens.rewards.calling import parameters
from rekindle.tokens.rollouts import Example, Rollouts


@dataclass(frozen=True)
class Trl:
    """`f(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **columns) -> list`, once a batch.

    Differs from TRL: a function need not take what it does not use; `id` and `answer` are there by name even where no
    column has that name; a reward that is not finite is an error. No `environments`: there is one turn.
    """

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """One call with all rows; InputError where a data column has the name of one of TRL's arguments."""
        chats = [rows.chat(example) for example in rollouts.example]
        own = {
            "prompts": [e.prompt if chat is None else chat for e, chat in zip(rollouts.example, chats, strict=True)],
            "completions": [
                text if chat is None else [{"role": "assistant", "content": text}]
                for text, chat in zip(rollouts.text, chats, strict=True)
            ],
            "completion_ids": rows.completion_ids(rollouts),
            "trainer_state": state,
            "log_extra": log.extra,
            "log_metric": log.metric,
        }
        columns = rows.columns(rollouts.example, names)
        rows.refuse_names(log.name, columns, (*own, "completion"))
        spare = {"id": [e.id for e in rollouts.example], "answer": [rows.answer(e) for e in rollouts.example]}
        return [Call(rows.all_rows(rollouts), {**own, **columns}, spare)]

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """One number or None a row."""
        return [Cell(number(name, row, value, log)) for row, value in enumerate(_listed(name, answer, len(call.rows)))]


@dataclass(frozen=True)
class Verl:
    """`compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict`, once a row.

    Of a dict, `score` trains, the other numbers are metrics, and all of it is kept with the rollouts. `extra_info` is
    the row's own with `num_turns` and `rollout_reward_scores`, as verl adds them. A row without a ground truth (of
    `reward_model`, else the answer) is not asked.
    """

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """A call a row that has a ground truth."""
        asked = [(row, e) for row, e in enumerate(rollouts.example) if rows.truth(e) is not None]
        return [Call((row,), self._row(e, rollouts.text[row])) for row, e in asked]

    def _row(self, example: Example, text: str) -> dict[str, Any]:
        return {
            "data_source": deepcopy(example.meta.get("data_source")),
            "solution_str": text,
            "ground_truth": rows.truth(example),
            "extra_info": rows.extra_info(example),
        }

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """A number, or a dict with `score`."""
        return [_scored(name, call.rows[0], answer, log)]


@dataclass(frozen=True)
class VerlBatch:
    """`compute_score(data_sources, solution_strs, ground_truths, extra_infos) -> list`, once a batch.

    The function of verl's batch manager. Rows as in `Verl`; those without a ground truth are left out of the lists.
    """

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """One call with all rows that have a ground truth, none where no row has one."""
        asked = tuple(row for row, e in enumerate(rollouts.example) if rows.truth(e) is not None)
        examples = [rollouts.example[row] for row in asked]
        lists = {
            "data_sources": [deepcopy(e.meta.get("data_source")) for e in examples],
            "solution_strs": [rollouts.text[row] for row in asked],
            "ground_truths": [rows.truth(e) for e in examples],
            "extra_infos": [rows.extra_info(e) for e in examples],
        }
        return [Call(asked, lists)] if asked else []

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """A number or a dict with `score`, one a row asked."""
        said = _listed(name, answer, len(call.rows))
        return [_scored(name, row, value, log) for row, value in zip(call.rows, said, strict=True)]


@dataclass(frozen=True)
class OpenRlhf:
    """`reward_func(queries, prompts, labels) -> {rewards, scores, extra_logs}` (or the rewards alone), once a batch.

    `rewards` train; `scores`, from 0 to 1, tell success; numbers of `extra_logs` are metrics. A prompt of messages is
    the texts of its messages, a line each: OpenRLHF hands over the text that its chat template makes of them.
    """

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """One call with all rows. A query is the prompt and the response."""
        prompts = [rows.text_of(example) for example in rollouts.example]
        lists = {
            "queries": [prompt + text for prompt, text in zip(prompts, rollouts.text, strict=True)],
            "prompts": prompts,
            "labels": [rows.answer(example) for example in rollouts.example],
        }
        return [Call(rows.all_rows(rollouts), lists)]

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """The rewards, with their scores and what is logged of each."""
        size = len(call.rows)
        said = answer if isinstance(answer, Mapping) else {"rewards": answer}
        if "rewards" not in said:
            raise InputError(f"reward '{name}': the returned dict has no 'rewards': add them")
        rewards = [number(name, row, v, log) for row, v in enumerate(_listed(name, said["rewards"], size))]
        scores = rewards
        if said.get("scores") is not None:
            scores = [number(name, row, v, log) for row, v in enumerate(_listed(name, said["scores"], size))]
        logs = _logs(name, said.get("extra_logs"), size, log)
        return [
            Cell(reward, score, {key: values[row] for key, values in logs.items()})
            for row, (reward, score) in enumerate(zip(rewards, scores, strict=True))
        ]


@dataclass(frozen=True)
class Areal:
    """`reward_fn(prompt, completions, prompt_ids, completion_ids, **columns) -> float`, once a row.

    `prompt` as in `OpenRlhf`. AReaL turns an exception into 0; here it is an error.
    """

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """A call a row."""
        ids, columns = rows.completion_ids(rollouts), rows.columns(rollouts.example, names)
        made = []
        for row, example in enumerate(rollouts.example):
            own = {
                "prompt": rows.text_of(example),
                "completions": rollouts.text[row],
                "prompt_ids": list(rollouts.prompt.ids[row]),
                "completion_ids": ids[row],
            }
            rows.refuse_names(log.name, columns, tuple(own))
            spare = {"id": example.id, "answer": rows.answer(example)}
            made.append(Call((row,), {**own, **{key: values[row] for key, values in columns.items()}}, spare))
        return made

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """A number."""
        return [Cell(number(name, call.rows[0], answer, log))]


def convention_of(name: str, function: Callable[..., Any]) -> Convention:
    """The convention that a function's parameter names belong to, TRL's where they are no other's."""
    names = set(parameters(name, function))
    if "completions" in names:
        return Areal() if "prompt" in names and "prompts" not in names else Trl()
    if "solution_strs" in names:
        return VerlBatch()
    if "solution_str" in names:
        return Verl()
    return OpenRlhf() if {"queries", "prompts", "labels"} <= names else Trl()


def verl_of(name: str, function: Callable[..., Any]) -> Convention:
    """verl's convention of a function: a batch a call where it takes `solution_strs`."""
    return VerlBatch() if "solution_strs" in parameters(name, function) else Verl()


def _scored(name: str, row: int, answer: Any, log: Log) -> Cell:
    if not isinstance(answer, Mapping):
        return Cell(number(name, row, answer, log))
    if "score" not in answer:
        raise InputError(f"reward '{name}', row {row}: the returned dict has no 'score'{log.prompt(row)}: add it")
    more = {str(key): value for key, value in answer.items() if key != "score"}
    return Cell(number(name, row, answer["score"], log), logged=more)


def _listed(name: str, answer: Any, size: int) -> Sequence[Any]:
    if isinstance(answer, str | bytes | Mapping | Set) or (given := _items(answer)) is None:
        raise InputError(f"reward '{name}': returned a {type(answer).__name__}: return a list of rewards")
    if len(given) != size:
        raise InputError(f"reward '{name}': returned {len(given)} rewards for {size} completions: match them")
    return given


def _items(answer: Any) -> list[Any] | None:
    """The items of what has a length, None for anything else, such as a tensor or an array of one number."""
    try:
        return list(answer) if hasattr(answer, "__len__") else None
    except TypeError:
        return None


def _logs(name: str, given: Any, size: int, log: Log) -> dict[str, Sequence[Any]]:
    """What is logged a row; a single number is logged for the batch."""
    logs: dict[str, Sequence[Any]] = {}
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"reward '{name}': 'extra_logs' is a {type(given).__name__}: return a dict of lists or numbers"
        )
    for key, value in (given or {}).items():
        values = scalar(value)
        if isinstance(values, bool | int | float) and (size > 1 or not hasattr(value, "__len__")):
            log.metric(str(key), values)
        else:
            logs[str(key)] = _listed(f"{name}', extra_logs '{key}", [values] if size == 1 else value, size)
    return logs
