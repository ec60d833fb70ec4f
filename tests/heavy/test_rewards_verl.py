"""One parquet file and one `compute_score`, unchanged, under verl 0.9.1's own data set and reward managers and ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from rekindle.tokens.plugins import load_value
from rekindle.tokens.rewards import load_rewards
from rekindle.tokens.rollouts import PromptRows, Rollouts
from rekindle.tokens.tasks.files import load_files
from tests.cli.folders import llama_folder

# verl's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

RESPONSES = ("the sum is 3", "so 7", "what is what", "one 8")
FUNCTIONS = """
import json, os

def note(**given):
    with open(os.environ["CALLS_OF_THIS_TEST"], "a") as file:
        file.write(json.dumps(given) + "\\n")

def judge(data_source, solution_str, ground_truth, extra_info):
    truth = ground_truth["target"] if isinstance(ground_truth, dict) else ground_truth
    right = solution_str.split()[-1] == truth
    number = extra_info["index"] + extra_info["num_turns"] + len(extra_info["rollout_reward_scores"])
    return {"score": right + 0.1 * number, "acc": right, "pred": solution_str.split()[-1], "source": data_source}

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    note(data_source=data_source, solution_str=solution_str, ground_truth=ground_truth, extra_info=extra_info)
    return judge(data_source, solution_str, ground_truth, extra_info)

async def later(data_source, solution_str, ground_truth, extra_info=None):
    return judge(data_source, solution_str, ground_truth, extra_info)["score"]

def batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [dict(score=len(s) / 10, words=len(s.split())) for s in solution_strs]
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    pytest.importorskip("verl", reason="verl is in the environment of `make judge` only: its rewards NOT CHECKED here")
    folder = tmp_path_factory.mktemp("verl")
    truths = ["3", "8", "what", "8"]
    rows = [
        {
            "data_source": "mine" if n % 2 else "yours",
            "prompt": [{"role": "user", "content": f"what is {n}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": "train", "index": n},
        }
        for n, truth in enumerate(truths)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    (folder / "score.py").write_text(FUNCTIONS)
    return {
        "folder": folder,
        "model": llama_folder(folder / "model"),
        "data": folder / "train.parquet",
        "functions": folder / "score.py",
    }


def proto(given: Mapping[str, Path], tokenizer: Any) -> Any:
    """What verl's trainer hands to its reward manager: the rows of its own data set, with fixed responses."""
    from omegaconf import OmegaConf  # type: ignore[import-not-found]
    from verl import DataProto  # type: ignore[import-not-found]
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn  # type: ignore[import-not-found]

    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(given["folder"] / "cache")})
    rows = RLHFDataset(str(given["data"]), tokenizer, config)
    columns = collate_fn([rows[n] for n in range(len(rows))])
    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in RESPONSES]
    width = max(map(len, ids))
    prompts = torch.ones(len(ids), 2, dtype=torch.long)
    mask = torch.tensor([[1, 1] + [1] * len(row) + [0] * (width - len(row)) for row in ids])
    tensors = {
        "prompts": prompts,
        "responses": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": mask,
    }
    others = {name: values for name, values in columns.items() if not isinstance(values, torch.Tensor)}
    # As its single-turn agent loop counts.
    turns = torch.full((len(ids),), 2).numpy().astype(object)
    return DataProto.from_dict(tensors=tensors, non_tensors={**others, "__num_turns__": turns})


def rollouts(given: Mapping[str, Path]) -> Rollouts:
    count = len(RESPONSES)
    zeros = torch.zeros(count, 1)
    return Rollouts(
        example=list(load_files(given["data"], rewarded=True).split("train")),
        prompt=PromptRows(((1,),) * count),
        ids=torch.zeros(count, 1, dtype=torch.long),
        mask=torch.ones(count, 1, dtype=torch.bool),
        logp=zeros,
        logp_sampled=zeros,
        entropy=zeros,
        text=RESPONSES,
        finish=["eos"] * count,
        group=torch.arange(count),
        uid=torch.arange(count),
    )


def calls(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def noted(given: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALLS_OF_THIS_TEST", str(tmp_path / "calls.jsonl"))
    return tmp_path / "calls.jsonl"


def test_the_naive_manager_and_ours_call_alike_and_score_alike(given: Mapping[str, Path], noted: Path) -> None:
    from verl.workers.reward_manager import NaiveRewardManager  # type: ignore[import-not-found]

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    manager = NaiveRewardManager(tokenizer, 0, load_value(f"{given['functions']}:compute_score"))
    told = manager(proto(given, tokenizer), return_dict=True)
    theirs = calls(noted)
    noted.unlink()
    got = load_rewards([f"{given['functions']}:compute_score"])(rollouts(given))
    assert calls(noted) == theirs and [call["solution_str"] for call in theirs] == list(RESPONSES)
    assert told["reward_tensor"].sum(dim=1).tolist() == pytest.approx(got.score.tolist())
    assert len(set(got.score.tolist())) == len(RESPONSES), "alive"
    extra = told["reward_extra_info"]
    assert list(extra["pred"]) == got.extra["reward/score.py:compute_score/pred"]
    assert [bool(value) for value in extra["acc"]] == got.extra["reward/score.py:compute_score/acc"]
    assert got.metrics["reward/score.py:compute_score/acc"] == (sum(map(bool, extra["acc"])), len(RESPONSES))


@pytest.mark.parametrize("name", ["compute_score", "later"])
def test_the_reward_loops_manager_and_ours_score_alike(given: Mapping[str, Path], noted: Path, name: str) -> None:
    from omegaconf import OmegaConf  # type: ignore[import-not-found]
    from verl.experimental.reward_loop.reward_manager.naive import (  # type: ignore[import-not-found]
        NaiveRewardManager,
    )

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    manager = NaiveRewardManager(OmegaConf.create({}), tokenizer, load_value(f"{given['functions']}:{name}"))
    data = proto(given, tokenizer)
    told = [manager.loop.run_until_complete(manager.run_single(data[n : n + 1])) for n in range(len(data))]
    got = load_rewards([f"{given['functions']}:{name}"])(rollouts(given))
    assert [one["reward_score"] for one in told] == pytest.approx(got.score.tolist())
    assert len(set(got.score.tolist())) == len(RESPONSES), "alive"


def test_the_batch_manager_and_ours_score_alike(given: Mapping[str, Path], noted: Path) -> None:
    from verl.workers.reward_manager import BatchRewardManager  # type: ignore[import-not-found]

    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    manager = BatchRewardManager(tokenizer, 0, load_value(f"{given['functions']}:batch"))
    told = manager(proto(given, tokenizer), return_dict=True)
    got = load_rewards([f"{given['functions']}:batch"])(rollouts(given))
    assert told["reward_tensor"].sum(dim=1).tolist() == pytest.approx(got.score.tolist())
    assert list(told["reward_extra_info"]["words"]) == got.extra["reward/score.py:batch/words"] == [4, 2, 3, 2]
