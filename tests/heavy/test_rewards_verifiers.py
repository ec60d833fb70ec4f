"""Tasksets of the real verifiers 0.4.0: the same rewards as its own `score`, a run that trains on one, and refusals."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.tokens.plugins import load_value
from rekindle.tokens.rewards import (
    Rewards,
    from_verifiers,
    load_rewards,
    load_taskset,
    taskset_examples,
    write_taskset,
)
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.tasks.files import load_files
from rekindle.train.events import read_events
from tests.cli.folders import llama_folder

vf = pytest.importorskip(
    "verifiers.v1", reason="verifiers is in the environment of scripts/verifiers.sh only: NOT CHECKED here"
)

# verifiers' and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

TASKSET = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    answer: str
    info: dict = {}

class Sum(vf.Task[Data]):
    @vf.reward(weight=1.0)
    async def exact(self, trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.5)
    async def whole(self, task, trace, runtime=None) -> float:
        return float(not trace.is_truncated and runtime is None and task.answer == self.data.answer)

    @vf.reward(weight=-0.25)
    async def parts(self, trace) -> dict:
        return {"long": float(trace.num_output_tokens > 4), "turns": float(trace.num_turns - 1)}

    @vf.metric
    async def tokens(self, trace) -> float:
        return trace.num_input_tokens

    @vf.metric
    async def seen(self, trace) -> float:
        return float([m.role for m in trace.messages][-2:] == ["user", "assistant"])

class Sums(vf.Taskset[Sum, vf.TasksetConfig]):
    def load(self):
        for a, b in ((1, 2), (3, 4), (5, 6)):
            yield Sum(Data(prompt=f"what is {a} and {b}", answer=str(a + b), info={"level": a}), self.config.task)

class Brief(vf.Taskset[Sum, vf.TasksetConfig]):
    def load(self):
        yield Sum(Data(prompt="what is 1", system_prompt="be brief", answer="1"), self.config.task)

ready = Sums(vf.TasksetConfig()).take(2)

class Endless(vf.Taskset[Sum, vf.TasksetConfig]):
    INFINITE = True
    def load(self):
        while True:
            yield Sum(Data(prompt="p", answer="1"), self.config.task)

def taskset(task, **data):
    class Made(vf.Taskset[Sum, vf.TasksetConfig]):
        def load(self):
            yield task(Data(**{"prompt": "p", "answer": "1", **data}), self.config.task)
    return Made(vf.TasksetConfig())

class Tools(Sum):
    @classmethod
    def toolsets(cls, config):
        return ["a tool"]

class Box(Sum):
    NEEDS_CONTAINER = True

class Prepared(Sum):
    async def setup(self, trace, runtime):
        pass

class Run(Sum):
    @vf.reward
    async def ran(self, trace, runtime) -> float:
        return 1.0

class Turns(Sum):
    @vf.stop
    async def done(self, trace: vf.Trace) -> bool:
        return True

class Nothing(vf.Task[Data]):
    pass

class Broken(vf.Task[Data]):
    @vf.reward
    async def fails(self, trace) -> float:
        raise KeyError("why")

Empty = taskset(Sum).take(0)
refused = {
    "gives the model tools": taskset(Tools),
    "needs a container": taskset(Box),
    "setup() needs a runtime": taskset(Prepared),
    "ran() needs a runtime": taskset(Run),
    "several turns": taskset(Turns),
    "no @vf.reward": taskset(Nothing),
    "no prompt": taskset(Sum, prompt=None),
    "more than text": taskset(Sum, prompt=[vf.UserMessage(content=[{"type": "text", "text": "p"}])]),
    "an image": taskset(Sum, image="ubuntu"),
    "never ends": Endless(vf.TasksetConfig()),
    "holds no tasks": Empty,
}
broken = taskset(Broken)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tasksets") / "sums.py"
    file.write_text(TASKSET)
    return file


def rollouts(examples: Sequence[Example], texts: tuple[str, ...], finish: tuple[str, ...]) -> Rollouts:
    count, width = len(texts), 6
    zeros = torch.zeros(count, width)
    return Rollouts(
        example=list(examples),
        prompt=PromptRows(((1, 2, 3),) * count),
        ids=torch.zeros(count, width, dtype=torch.long),
        mask=torch.arange(width)[None] < torch.tensor([len(text) for text in texts])[:, None],
        logp=zeros,
        logp_sampled=zeros,
        entropy=zeros,
        text=texts,
        finish=finish,
        group=torch.arange(count),
        uid=torch.arange(count),
    )


async def by_hand(task: Any, text: str, truncated: bool) -> Any:
    """A trace of one turn, built and scored without ours."""
    nodes = [
        vf.MessageNode(message=vf.UserMessage(content=task.data.prompt)),
        vf.MessageNode(parent=0, message=vf.AssistantMessage(content=text), sampled=True),
    ]
    usage = vf.Usage(prompt_tokens=3, completion_tokens=len(text))
    calls = [vf.ModelCall(node=1, finish_reason="length" if truncated else "stop", usage=usage)]
    kept = vf.TraceTask(type="Sum", data=task.data)
    trace = vf.Trace(task=kept, agent=vf.AgentInfo(config=vf.AgentConfig()), nodes=nodes, calls=calls)
    await task.score(trace)
    return trace


def test_rewards_are_those_of_the_tasks_own_score(place: Path) -> None:
    taskset = load_taskset(f"{place}:Sums")
    texts, finish = ("3", "wrong!", "11"), ("eos", "eos", "length")
    data = rollouts(taskset_examples(taskset), texts, finish)
    got = Rewards((from_verifiers(taskset),))(data)
    traces = [
        asyncio.run(by_hand(task, text, end == "length"))
        for task, text, end in zip(taskset, texts, finish, strict=True)
    ]
    assert got.score.tolist() == [trace.reward for trace in traces] == [1.5, 0.25, 1.0]
    assert got.success.tolist() == [True, False, False] and got.graded.all()
    for key in ("exact", "whole", "long", "turns"):
        assert got.extra[f"reward/Sums/{key}"] == [trace.rewards[key].score for trace in traces]
    assert got.metrics["reward/Sums/tokens"] == (9.0, 3)
    assert got.metrics["reward/Sums/seen"] == (3.0, 3)


def test_examples_carry_prompt_system_prompt_answer_and_columns(place: Path) -> None:
    first = taskset_examples(load_taskset(f"{place}:ready"))
    assert [example.prompt for example in first] == ["what is 1 and 2", "what is 3 and 4"]
    assert [example.answer for example in first] == ["3", "7"]
    assert first[0].meta == {"answer": "3", "info": {"level": 1}}
    (brief,) = taskset_examples(load_taskset(f"{place}:Brief"))
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is 1"}]
    assert brief.meta["messages"] == said and brief.prompt == "what is 1"


def test_a_run_trains_on_a_taskset(place: Path, tmp_path: Path) -> None:
    data = write_taskset(load_taskset(f"{place}:Sums"), tmp_path / "sums.jsonl")
    assert [json.loads(line)["answer"] for line in data.read_text().splitlines()] == ["3", "7", "11"]
    rows = load_files(data, rewarded=True).split("train")
    assert [row.id for row in rows] == [task.key for task in load_taskset(f"{place}:Sums")]
    model = llama_folder(tmp_path / "model")
    options = {"rollout.prompts": 2, "rollout.group": 4, "rollout.max_tokens": 8, "checkpoint.every": 0}
    where = {"model": str(model), "data": data, "out": tmp_path / "run"}
    folder = train("grpo", **where, reward=[f"verifiers:{place}:Sums=0.5"], steps=2, options=options)
    steps = [record for record in read_events(folder / "events.jsonl") if record["kind"] == "step"]
    assert len(steps) == 2
    for step in steps:
        assert {f"reward/sums.py:Sums{key}" for key in ("", "/exact", "/whole", "/long", "/tokens")} <= step.keys()
        assert step["score"] == pytest.approx(0.5 * step["reward/sums.py:Sums"])


def test_what_needs_more_than_a_turn_of_text_is_refused(place: Path) -> None:
    refused: Mapping[str, Any] = load_value(f"{place}:refused")
    assert len(refused) == 11
    for reason, taskset in refused.items():
        with pytest.raises(InputError) as caught:
            from_verifiers(taskset)
        assert reason in str(caught.value) and type(taskset).__name__ in str(caught.value)


def test_failures_are_named(place: Path, tmp_path: Path) -> None:
    broken = load_value(f"{place}:broken")
    data = rollouts(taskset_examples(broken), ("3",), ("eos",))
    with pytest.raises(InputError, match=r"reward 'mine' raised TaskError: .*why.*fix the function"):
        Rewards((from_verifiers(broken, "mine"),))(data)
    other = rollouts((Example("line-1", "p"),), ("3",), ("eos",))
    with pytest.raises(InputError, match=r"row 0: the data's id 'line-1' is no task of the taskset.*write_taskset"):
        load_rewards([f"verifiers:{place}:Sums"])(other)
    with pytest.raises(InputError, match=r"'.*:Data' is a ModelMetaclass: name a subclass"):
        load_taskset(f"{place}:Data")


def test_the_taskset_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    file, write = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "needs verifiers" in b]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.py").write_text(file)
    exec(compile(write, "docs/rewards.md", "exec"), {})
    rows = load_files("taskset.jsonl", rewarded=True).split("train")
    (spec,) = re.findall(r"--reward (verifiers:\S+)", text)
    got = load_rewards([spec])(rollouts(rows, ("3", "8"), ("eos", "eos")))
    assert got.success.tolist() == [True, False] and got.extra["reward/sums.py:Sums/words"] == [1.0, 1.0]
