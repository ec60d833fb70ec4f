"""`None` in a real run: a response that nobody judges moves nothing, as if it had not been sampled."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.train.events import read_events

OPTIONS = {
    "rollout.prompts": 4,
    "rollout.group": 8,
    "checkpoint.every": 0,
    "dtype": "float64",
    "descent.lr": 1e-3,
}
CODE = """
def judged(completions):
    sums = [sum(map(ord, completion)) for completion in completions]
    return [None if total % 3 == 0 else float(total % 4) for total in sums]

def zero(completions):
    return [0.0 if reward is None else reward for reward in judged(completions)]

async def also(completions):
    return [None for _ in completions]
"""
WITHOUT = """
from rekindle.methods import grpo

def absent(batch, run):
    return batch.take(batch.graded.nonzero()[:, 0])

def method():
    return grpo.method().replace(source=(absent,))
"""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def apart(a: Path, b: Path) -> float:
    first, second = weights(a), weights(b)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_row_without_a_reward_is_as_if_it_had_not_been_sampled(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(CODE)
    (tmp_path / "without.py").write_text(WITHOUT)

    def run(name: str, method: str, *rewards: str) -> Path:
        specs = [f"{tmp_path / 'r.py'}:{reward}" for reward in rewards]
        return train(method, task="digit_sum", reward=specs, steps=1, out=tmp_path / name, options=OPTIONS)

    none = run("none", "grpo", "judged", "also=2")
    absent = run("absent", f"{tmp_path / 'without.py'}:method", "judged", "also=2")
    zero = run("zero", "grpo", "zero")
    assert apart(none, absent) < 1e-9 < 1e-6 < apart(none, zero), "None is not 0, and not a row of weight 0 either"
    table = pq.read_table(none / "rollouts" / "step-000001.parquet").to_pydict()
    rows = list(zip(table["response"], table["graded"], table["score"], table["group"], strict=True))
    assert [graded for _, graded, _, _ in rows] == [sum(map(ord, text)) % 3 != 0 for text, _, _, _ in rows]
    groups = [[graded for _, graded, _, group in rows if group == g] for g in set(table["group"])]
    assert any(any(graded) and not all(graded) for graded in groups), "a group of both kinds, or nothing is shown"
    step = next(record for record in read_events(none / "events.jsonl") if record["kind"] == "step")
    scores = [score for _, graded, score, _ in rows if graded]
    assert step["score"] == step["reward/r.py:judged"] == sum(scores) / len(scores)
    assert step["graded"] == len(scores) / len(rows) and "reward/r.py:also" not in step
