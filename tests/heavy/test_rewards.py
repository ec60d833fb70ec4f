"""One file of reward functions and one data file, unchanged, under TRL 1.16's GRPOTrainer and `rekindle train`."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from rekindle.api import train
from rekindle.core.advantages import GroupNormalized
from rekindle.core.types import Batch
from rekindle.tokens.rewards import Rewards, load_rewards
from rekindle.tokens.rollouts import PromptRows, Rollouts
from rekindle.tokens.tasks.files import load_files
from rekindle.train.events import read_events
from tests.cli.folders import llama_folder

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

STEPS, PROMPTS, GROUP = 3, 2, 4
FUNCTIONS = '''
import asyncio, json, os

HERE = {}

def kind(value):
    if isinstance(value, list):
        return [kind(value[0])] if value else []
    if isinstance(value, dict):
        return {key: kind(item) for key, item in value.items()}
    return "function" if callable(value) else type(value).__name__

def note(name, given, rewards):
    state = given["trainer_state"]
    columns = {key: value for key, value in given.items() if key not in ("trainer_state", "log_extra", "log_metric")}
    line = {"name": name, "keys": {key: kind(value) for key, value in given.items()}, "columns": columns,
            "state": [state.global_step, state.max_steps, state.is_world_process_zero], "rewards": rewards}
    with open(os.environ["CALLS_OF_THIS_TEST"], "a") as file:
        file.write(json.dumps(line) + "\\n")

def text(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]

def length(prompts, completions, completion_ids, answer, level, **others):
    """Does not apply at level 2; uneven otherwise."""
    rewards = [None if at == 2 else len(text(c)) / 10 + len(a) for c, a, at in zip(completions, answer, level)]
    others["log_extra"]("said", [text(c).upper() for c in completions])
    others["log_metric"]("longest", max(len(ids) for ids in completion_ids))
    given = dict(prompts=prompts, completions=completions, completion_ids=completion_ids, answer=answer, level=level)
    note("length", {**given, **others}, rewards)
    return rewards

async def waits(completions, level, **others):
    """Does not apply to some responses at level 2, so that these are judged by nobody; returns after `answers`."""
    HERE["waits"] = asyncio.Event()
    await asyncio.wait_for(HERE["waits"].wait(), 20)
    rewards = [None if at == 2 and len(text(c)) % 2 else float(len(text(c)) % 3) for c, at in zip(completions, level)]
    note("waits", dict(completions=completions, level=level, **others), rewards)
    return rewards

async def answers(completions, tests, **others):
    """Lets `waits` go: they run at the same time, or both hang."""
    while "waits" not in HERE:
        await asyncio.sleep(0)
    HERE.pop("waits").set()
    rewards = [float(len(text(c)) > 5) if len(text(c)) % 2 == 0 else None for c in completions]
    note("answers", dict(completions=completions, tests=tests, **others), rewards)
    return rewards
'''
NAMES = ("length", "waits", "answers")
WEIGHTS = (1.0, 0.5, -0.25)
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@dataclass(frozen=True)
class Side:
    """What the functions were called with, call by call, and what they returned."""

    calls: list[dict[str, Any]]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["name"] == name]


def rows(chat: bool) -> list[dict[str, Any]]:
    texts = ["what is one", "the sum is so", "two and three", "what is two"]
    return [
        {
            "prompt": [{"role": "system", "content": "be so"}, {"role": "user", "content": text}] if chat else text,
            "answer": text.split()[-1],
            "level": 1 + n % 2,
            "tests": [text[0], "x"],
        }
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module", params=[False, True], ids=["texts", "messages"])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("rewards")
    model = llama_folder(folder / "model", max_position_embeddings=256)
    if request.param:
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(model)
    data, functions = folder / "data.jsonl", folder / "functions.py"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(request.param)))
    functions.write_text(FUNCTIONS)
    return {"folder": folder, "model": model, "data": data, "functions": functions}


def recorded(path: Path) -> Side:
    return Side([json.loads(line) for line in path.read_text().splitlines()])


@pytest.fixture(scope="module")
def theirs(given: Mapping[str, Path]) -> tuple[Side, list[dict[str, Any]]]:
    pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only: rewards NOT CHECKED")
    from datasets import load_dataset  # type: ignore[import-not-found]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    found = importlib.util.spec_from_file_location("functions", given["functions"])
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLS_OF_THIS_TEST", str(given["folder"] / "theirs.jsonl"))
        trainer = GRPOTrainer(
            model=str(given["model"]),
            args=GRPOConfig(
                output_dir=str(given["folder"] / "trl"),
                report_to=[],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                max_completion_length=8,
                max_steps=STEPS,
                save_strategy="no",
                reward_weights=list(WEIGHTS),
            ),
            reward_funcs=[vars(module)[name] for name in NAMES],
            processing_class=AutoTokenizer.from_pretrained(given["model"]),
            train_dataset=load_dataset("json", data_files=str(given["data"]), split="train"),
        )
        steps: list[dict[str, Any]] = []
        score = trainer._generate_and_score_completions

        def kept(inputs: Any) -> Any:
            """TRL's own log holds the completions of the last step only."""
            scored = score(inputs)
            logs = trainer._logs
            columns = {name: list(values) for name, values in (*logs["rewards"].items(), *logs["extra"].items())}
            steps.append({**columns, "advantages": list(logs["advantages"])})
            return scored

        trainer._generate_and_score_completions = kept
        trainer.train()
    return recorded(given["folder"] / "theirs.jsonl"), steps


@pytest.fixture(scope="module")
def ours(given: Mapping[str, Path], theirs: tuple[Side, list[dict[str, Any]]]) -> tuple[Side, Path]:
    specs = [f"{given['functions']}:{name}={weight}" for name, weight in zip(NAMES, WEIGHTS, strict=True)]
    options = {"rollout.prompts": PROMPTS, "rollout.group": GROUP, "rollout.max_tokens": 8, "checkpoint.every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLS_OF_THIS_TEST", str(given["folder"] / "ours.jsonl"))
        place = {"model": str(given["model"]), "data": given["data"], "out": given["folder"] / "run"}
        folder = train("grpo", **place, reward=specs, steps=STEPS, options=options)
    return recorded(given["folder"] / "ours.jsonl"), folder


def test_both_call_every_function_at_every_step(
    theirs: tuple[Side, list[dict[str, Any]]], ours: tuple[Side, Path]
) -> None:
    for name in NAMES:
        assert len(theirs[0].of(name)) == len(ours[0].of(name)) == STEPS
        for call in (*theirs[0].of(name), *ours[0].of(name)):
            assert len(call["rewards"]) == PROMPTS * GROUP
    assert any(None in call["rewards"] for call in ours[0].calls)
    assert any(None in call["rewards"] for call in theirs[0].calls)


def test_both_hand_over_the_same_names_and_types(
    theirs: tuple[Side, list[dict[str, Any]]], ours: tuple[Side, Path]
) -> None:
    for name in NAMES:
        told = theirs[0].of(name)[0]["keys"]
        assert {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"} <= told.keys()
        assert {"answer", "level", "tests"} <= told.keys() or name != "length"
        for call in (*theirs[0].of(name), *ours[0].of(name)):
            assert call["keys"] == told


def test_both_hand_over_the_same_columns_of_a_prompt(
    given: Mapping[str, Path], theirs: tuple[Side, list[dict[str, Any]]], ours: tuple[Side, Path]
) -> None:
    columns = {json.dumps(row.pop("prompt")): row for row in map(json.loads, given["data"].read_text().splitlines())}
    for side in (theirs[0], ours[0]):
        for call in side.of("length"):
            prompts = [json.dumps(prompt) for prompt in call["columns"]["prompts"]]
            assert len(set(prompts)) == PROMPTS
            for name in ("answer", "level", "tests"):
                assert call["columns"][name] == [columns[prompt][name] for prompt in prompts]


def test_both_tell_the_step(theirs: tuple[Side, list[dict[str, Any]]], ours: tuple[Side, Path]) -> None:
    for side in (theirs[0], ours[0]):
        assert [call["state"] for call in side.of("answers")] == [[step, STEPS, True] for step in range(STEPS)]


def as_rollouts(call: dict[str, Any], examples: Sequence[Any]) -> Rollouts:
    """The completions of one of TRL's calls, as our sampler would have given them."""
    columns = call["columns"]
    by_prompt = {json.dumps(example.meta.get("messages", example.prompt)): example for example in examples}
    said = [c if isinstance(c, str) else c[0]["content"] for c in columns["completions"]]
    count, width = len(said), max(map(len, columns["completion_ids"]))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in columns["completion_ids"]])
    mask = torch.tensor([[n < len(row) for n in range(width)] for row in columns["completion_ids"]])
    zeros = torch.zeros(count, width)
    return Rollouts(
        example=[by_prompt[json.dumps(prompt)] for prompt in columns["prompts"]],
        prompt=PromptRows(((1,),) * count),
        ids=ids,
        mask=mask,
        logp=zeros,
        logp_sampled=zeros,
        entropy=zeros,
        text=said,
        finish=["eos"] * count,
        group=torch.arange(count) // GROUP,
        uid=torch.arange(count),
    )


def batch_of(rollouts: Rollouts, score: torch.Tensor, graded: torch.Tensor) -> Batch:
    return Batch(
        action=rollouts.ids,
        mask=rollouts.mask,
        uid=rollouts.uid,
        group=rollouts.group,
        success=graded,
        graded=graded,
        score=score,
        prompt=rollouts.prompt,
        key=torch.tensor(0),
    )


def test_identical_completions_get_identical_rewards_and_advantages(
    given: Mapping[str, Path], theirs: tuple[Side, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards of each function, `None` rows, and the group statistics that leave them out, step by step."""
    monkeypatch.setenv("CALLS_OF_THIS_TEST", str(given["folder"] / "again.jsonl"))
    side, steps = theirs
    specs = [f"{given['functions']}:{name}={weight}" for name, weight in zip(NAMES, WEIGHTS, strict=True)]
    rewards: Rewards = load_rewards(specs)
    examples = load_files(given["data"], rewarded=True).split("train")
    unscored = 0
    for call, logged in zip(side.of("length"), steps, strict=True):
        rollouts = as_rollouts(call, examples)
        got, parts = rewards(rollouts), rewards.parts(rollouts)
        for name in NAMES:
            told = [None if math.isnan(value) else value for value in logged[name]]
            assert told == pytest.approx(parts[f"functions.py:{name}"], abs=1e-6)
        assert got.extra["reward/functions.py:length/said"] == logged["said"]
        advantage = GroupNormalized(eps=1e-4)(batch_of(rollouts, got.score, got.graded))[:, 0]
        assert logged["advantages"] == pytest.approx(advantage.tolist(), abs=1e-5)  # TRL works in float32
        assert not got.graded.all() or advantage.abs().max() > 0.5
        unscored += int((~got.graded).sum())
    assert unscored, "no response that nobody judged: the test shows nothing of them"


def test_what_functions_log_is_in_the_run(ours: tuple[Side, Path]) -> None:
    steps = [record for record in read_events(ours[1] / "events.jsonl") if record["kind"] == "step"]
    longest = [max(map(len, call["columns"]["completion_ids"])) for call in ours[0].of("length")]
    assert [step["reward/functions.py:length/longest"] for step in steps] == longest
    scores = [step["reward/functions.py:waits"] for step in steps]
    for said, call in zip(scores, ours[0].of("waits"), strict=True):
        kept = [value for value in call["rewards"] if value is not None]
        assert said == pytest.approx(sum(kept) / len(kept))
    table = pq.read_table(ours[1] / "rollouts" / "step-000001.parquet").to_pydict()
    assert table["graded"].count(False) == sum(
        all(call["rewards"][row] is None for call in (ours[0].of(name)[0] for name in NAMES))
        for row in range(PROMPTS * GROUP)
    )
