"""Tasksets of verifiers 0.4 (`import verifiers.v1 as vf`) whose tasks take one turn: their prompts and their rewards.

A response becomes a `vf.Trace` of one turn, and the task's own `score` judges it, as verifiers replays a stored trace:
no harness, no runtime, no container. What needs one of these is refused with the reason.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rekindle.errors import InputError
from rekindle.tokens.plugins import load_value
from rekindle.tokens.rewards.base import Call, Cell, Log, TrainerState, number
from rekindle.tokens.rewards.weighted import Reward
from rekindle.tokens.rollouts import Example, Rollouts

WANTED = "verifiers==0.4.0"


def load_taskset(spec: str, opened: dict[str, ModuleType] | None = None) -> Any:
    """The taskset that `MODULE:Taskset` or `FILE.py:Taskset` names: an object, or a class, made with its defaults.

    opened: as in `load_object`. InputError where there is none, it cannot be made, or verifiers is not installed.
    """
    vf = _module("verifiers.v1")
    found: Any = load_value(spec, opened)
    if isinstance(found, vf.Taskset):
        return found
    if not isinstance(found, type) or not issubclass(found, vf.Taskset):
        raise InputError(f"'{spec}' is a {type(found).__name__}: name a subclass of verifiers.v1.Taskset or an object")
    kind = _module("verifiers.v1.utils.generic").concrete_type(found, vf.TasksetConfig, origin=vf.Taskset)
    make: Any = found
    try:
        return make((kind or vf.TasksetConfig)())
    except Exception as error:  # the taskset is the user's own code
        raise InputError(f"'{spec}' cannot be made ({_line(error)}): name an object of it with its config") from error


def taskset_examples(taskset: Any) -> tuple[Example, ...]:
    """The prompts of a taskset as examples; InputError naming a task that needs more than one turn of text.

    id: the task's key. answer: its data's field `answer` where that is a text. meta: all fields of its own, and
    `messages` where there is a system prompt or the prompt is a list.
    """
    return tuple(_example(task) for task in _tasks(taskset).values())


def taskset_rows(taskset: Any) -> list[dict[str, Any]]:
    """The prompts of a taskset as rows of a data file: `id`, `prompt`, and the fields of its own."""
    rows = []
    for example in taskset_examples(taskset):
        own = {key: value for key, value in example.meta.items() if key != "messages"}
        rows.append({**own, "id": example.id, "prompt": example.meta.get("messages", example.prompt)})
    return rows


def write_taskset(taskset: Any, path: str | Path) -> Path:
    """Write the prompts of a taskset to a JSONL file for `--data`; the reward finds a row's task by its `id`."""
    target = Path(path)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in taskset_rows(taskset))
    target.write_text("".join(lines), encoding="utf-8")
    return target


def from_verifiers(taskset: Any, name: str | None = None, weight: float = 1.0) -> Reward:
    """The rewards of a taskset's tasks as one reward: the sum that verifiers trains on, each part logged.

    Success: the sum of the positive weights at least, as where every `@vf.reward` gives 1. InputError naming a task
    that needs more than one turn of text.
    """
    return Reward(name or type(taskset).__name__, judged, weight, _Rows(_tasks(taskset)))


@dataclass(frozen=True)
class _Rows:
    """A call a row, with the row's task."""

    tasks: Mapping[str, Any]

    def calls(self, rollouts: Rollouts, state: TrainerState, log: Log, names: Sequence[str]) -> list[Call]:
        """InputError where a row is of no task of the taskset."""
        calls = []
        for row, example in enumerate(rollouts.example):
            if example.id not in self.tasks:
                raise InputError(
                    f"reward '{log.name}', row {row}: the data's id '{example.id}' is no task of the taskset: train on "
                    "the file that write_taskset made of it"
                )
            given = {
                "task": self.tasks[example.id],
                "text": rollouts.text[row],
                "truncated": rollouts.finish[row] == "length",
                "tokens": (len(rollouts.prompt.ids[row]), int(rollouts.mask[row].sum())),
            }
            calls.append(Call((row,), given))
        return calls

    def cells(self, name: str, call: Call, answer: Any, log: Log) -> Sequence[Cell]:
        """The sum of the weighted rewards; worth: 1 where it reaches the sum of the positive weights."""
        rewards = {key: part for key, part in answer.rewards.items() if part is not None}
        total = number(name, call.rows[0], answer.reward, log)
        full = sum(part.weight for part in rewards.values() if part.weight > 0)
        logged = {key: part.score for key, part in rewards.items()} | dict(answer.metrics)
        return [Cell(total, float(total is not None and total >= full), logged)]


async def judged(task: Any, text: str, truncated: bool, tokens: tuple[int, int]) -> Any:
    """The trace of one response, scored by its task."""
    vf = _module("verifiers.v1")
    nodes = [vf.MessageNode(parent=n - 1 if n else None, message=m) for n, m in enumerate(_messages(vf, task.data))]
    reply = vf.AssistantMessage(content=text)
    nodes.append(vf.MessageNode(parent=len(nodes) - 1, message=reply, sampled=True))
    usage = vf.Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])
    call = vf.ModelCall(node=len(nodes) - 1, finish_reason="length" if truncated else "stop", usage=usage)
    kept = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    trace = vf.Trace(
        task=kept,
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        state=_module("verifiers.v1.state").state_cls(type(task))(),
        nodes=nodes,
        calls=[call],
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )
    await task.score(trace)
    return trace


def _tasks(taskset: Any) -> dict[str, Any]:
    """Key -> task; refused where one cannot be judged from one turn of text."""
    vf = _module("verifiers.v1")
    if not taskset.bounded:
        raise InputError(f"taskset '{type(taskset).__name__}' never ends: give taskset.take(n)")
    found: dict[str, Any] = {}
    for number_, task in enumerate(taskset):
        reason = next(_reasons(vf, taskset, task), None)
        if reason is not None:
            raise InputError(
                f"taskset '{type(taskset).__name__}', task {number_}: {reason}: only tasks that are judged from one "
                "turn of text can be trained on here"
            )
        found[task.key] = task
    if not found:
        raise InputError(f"taskset '{type(taskset).__name__}' holds no tasks: check its load()")
    return found


def _reasons(vf: Any, taskset: Any, task: Any) -> Iterator[str]:
    """What of a task needs more than one turn of text."""
    kind, data = type(task), task.data
    if kind.toolsets(task.config) or type(taskset).toolsets(taskset.config):
        yield "it gives the model tools"
    if kind.NEEDS_CONTAINER or data.image is not None or data.skills:
        yield "it needs a container, an image or skills"
    for hook in ("setup", "finalize", "stage_verifier"):
        if vars(vf.Task)[hook] is not inspect.getattr_static(kind, hook):
            yield f"its {hook}() needs a runtime"
    for needy in (*task.hooks("reward"), *task.hooks("metric")):
        asked = inspect.signature(needy).parameters.get("runtime")
        if asked is not None and asked.default is asked.empty:
            yield f"its {needy.__name__}() needs a runtime"
    if task.hooks("stop") or _module("verifiers.v1.utils.decorators").discover_decorated(task, "intercept"):
        yield "it has @vf.stop or @vf.intercept, which watch a conversation of several turns"
    if not task.hooks("reward") and not task.config.judges:
        yield "it has no @vf.reward"
    if data.prompt is None:
        yield "it has no prompt: its user opens the conversation"
    elif any(not isinstance(message.content, str) for message in _messages(vf, data)):
        yield "its prompt holds more than text"


def _messages(vf: Any, data: Any) -> list[Any]:
    """The messages that the model is shown."""
    system = [] if data.system_prompt is None else [vf.SystemMessage(content=data.system_prompt)]
    user = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt)
    return [*system, *user]


def _example(task: Any) -> Example:
    vf, data = _module("verifiers.v1"), task.data
    shown = [{"role": message.role, "content": message.content} for message in _messages(vf, data)]
    own = data.model_dump(mode="json", exclude=set(vf.TaskData.model_fields))
    plain = isinstance(data.prompt, str) and data.system_prompt is None
    answer = own.get("answer")
    return Example(
        id=task.key,
        prompt=shown[-1]["content"],
        answer=answer if isinstance(answer, str) else None,
        meta=own if plain else {**own, "messages": shown},
    )


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"verifiers cannot be imported ({_line(error)}): pip install '{WANTED}'") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
