"""Chosen prompts: the task holds one training example, else as it was; methods that choose prompts are refused."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rekindle.core.method import PolicyGradient
from rekindle.core.stages import Stages
from rekindle.errors import InputError
from rekindle.methods import dapo, grpo
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.base import Task
from rekindle.train.chosen import Chosen, chosen, find
from rekindle.train.config import Resolved, resolve


@dataclass(frozen=True)
class Hardest:
    def __call__(self, run: Any, count: int) -> list[Example]:
        return run.next_examples(count)


def resolved(record: PolicyGradient | Stages, name: str | None) -> Resolved:
    return resolve("mine", record, flags={"task": "digit_sum"} | ({} if name is None else {"one_shot": name}))


def test_only_the_training_split_changes() -> None:
    inner: Task = load_task("digit_sum")
    example = inner.split("train")[7]
    task = chosen(resolved(grpo.method(), example.id), inner)
    assert isinstance(task, Task) and list(task.split("train")) == [example]
    assert task.splits == inner.splits and list(task.split("heldout")) == list(inner.split("heldout"))
    for name in ("name", "version", "profile", "system_prompt", "ways", "step_delimiters"):
        assert vars(task)[name] == getattr(inner, name)
    text = "4+7=11,11+2=13;13"
    answer = inner.extract(text)
    assert task.extract(text) == answer and task.grade(answer, answer) == inner.grade(answer, answer)
    assert task.steps(text) == inner.steps(text) and task.well_formed(text) == inner.well_formed(text)
    assert task.derivation(example, text) == inner.derivation(example, text)
    assert list(pickle.loads(pickle.dumps(task)).split("train")) == [example]


def test_without_the_option_the_task_is_the_task() -> None:
    inner: Task = load_task("digit_sum")
    assert chosen(resolved(dapo.method(), None), inner) is inner


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (dapo.method(), "collect.select = MixedGroups drops prompts"),
        (Stages(methods=(grpo.method(), dapo.method()), until=(0.5, 1.0)), "methods.1.collect.select = MixedGroups"),
        (
            grpo.method().replace(collect=grpo.method().collect.replace(prompts=Hardest())),  # type: ignore[attr-defined]
            "collect.prompts = Hardest chooses its prompts itself",
        ),
    ],
)
def test_methods_that_need_other_prompts_are_refused(record: PolicyGradient | Stages, named: str) -> None:
    inner: Task = load_task("digit_sum")
    with pytest.raises(InputError, match="there is no other prompt") as refusal:
        chosen(resolved(record, inner.split("train")[0].id), inner)
    assert named in str(refusal.value)


def test_an_unknown_id_names_the_nearest_and_never_all() -> None:
    examples = [Example(f"train-{i}", "p") for i in range(500)]
    assert find(examples, "train-17", "--one-shot") is examples[17]
    with pytest.raises(InputError, match="did you mean") as refusal:
        find(examples, "train-0017", "--one-shot")
    assert "'train-17'" in str(refusal.value) and len(str(refusal.value)) < 200
    with pytest.raises(InputError, match="ids are such as 'train-0'"):
        find(examples, "§", "ids.txt")


def test_the_wrapper_is_a_task() -> None:
    inner: Task = load_task("reduce")
    assert isinstance(chosen(resolved(grpo.method(), inner.split("train")[0].id), inner), Chosen)


def test_a_file_of_ids_gives_the_prompts_in_its_order(tmp_path: Path) -> None:
    inner: Task = load_task("digit_sum")
    examples = inner.split("train")
    path = tmp_path / "ids.txt"
    path.write_text(f"{examples[3].id}\n\n{examples[1].id}\n")
    flags = {"task": "digit_sum", "only": str(path)}
    task = chosen(resolve("mine", dapo.method(), flags=flags), inner)
    assert list(task.split("train")) == [examples[3], examples[1]]
    for text, said in (("", "names no prompt"), ("a\na\n", "names 'a' twice"), ("nothing\n", "ids are such as")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            chosen(resolve("mine", dapo.method(), flags=flags), inner)
    with pytest.raises(InputError, match="both given"):
        chosen(resolve("mine", dapo.method(), flags={**flags, "one_shot": examples[0].id}), inner)
    with pytest.raises(InputError, match="cannot be read"):
        chosen(resolve("mine", dapo.method(), flags={**flags, "only": str(tmp_path / "none")}), inner)
