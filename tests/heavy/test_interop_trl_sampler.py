"""Real TRL 1.16 with a sampler that tells its log-probs, in part; evaluations between updates; sequence ratios."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.objectives import Clip
from rekindle.core.schedules import Linear, Scalar, plain
from rekindle.core.types import Batch, Metrics, Now
from rekindle.interop.trl import RekindleRecorder
from rekindle.interop.trl.fitting import OWNED
from rekindle.methods import grpo
from rekindle.train.events import read_events
from tests.heavy.interop_trl import trainer
from tests.tiny_models import tokenizer

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

trl = pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only")
TOLD = [-2.5, None, -3.0]


def rollouts(prompts: list[str], made: Any) -> dict[str, Any]:
    """Three letters to each prompt; of the second nobody knows the log-prob, as vLLM tells it."""
    letters = torch.randint(5, 20, (len(prompts), 3), generator=torch.Generator().manual_seed(made._step + 1)).tolist()
    ids = [tokenizer()(prompt).input_ids for prompt in prompts]
    return {"prompt_ids": ids, "completion_ids": letters, "logprobs": [TOLD] * len(prompts)}


def test_every_owned_setting_is_one_of_trls() -> None:
    assert set(OWNED) <= {field.name for field in dataclasses.fields(trl.GRPOConfig)}


def test_a_log_prob_that_the_sampler_did_not_tell_is_neutral(tmp_path: Path) -> None:
    from rekindle.interop.trl import RekindleTrainer

    method = grpo.method().replace(aggregate=SamplerWeighted(level="token"))
    more = {"method": method, "rollout_func": rollouts}
    made = trainer(tmp_path / "trl", RekindleTrainer, more=more, per_device_train_batch_size=8)
    RekindleRecorder(tmp_path / "run").attach(made)
    made.train()
    logged = [line for line in made.state.log_history if "loss" in line]
    assert len(logged) == 3 and all(math.isfinite(line["loss"]) and line["grad_norm"] > 1e-4 for line in logged)
    batch = made._batches["train"]
    assert batch.column("logp_sampled")[:, 1].equal(batch.logp_old[:, 1])
    assert batch.column("logp_sampled")[:, ::2].tolist() == [[-2.5, -3.0]] * 8
    for step in (1, 2, 3):
        for row in pq.read_table(tmp_path / "run" / "rollouts" / f"step-{step:06d}.parquet").to_pylist():
            assert row["token_logp_sampled"] == pytest.approx([-2.5, row["token_logp"][1], -3.0], abs=1e-5)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """GRPO's clip, and a number of the schedule as it is when the loss is computed."""

    level: Scalar
    separable: ClassVar[bool] = True

    def __call__(self, now: Now, batch: Batch) -> tuple[Tensor, Metrics]:
        loss, metrics = Clip()(now, batch)
        return loss, {**metrics, "heard": (plain(self.level), 1.0)}


def test_an_evaluation_leaves_the_schedule_of_the_generation_alone(tmp_path: Path) -> None:
    from datasets import Dataset  # type: ignore[import-not-found]

    from rekindle.interop.trl import RekindleTrainer

    method = grpo.method().replace(objective=Heard(level=Linear(0.0, 3.0)))
    more = {"method": method, "eval_dataset": Dataset.from_dict({"prompt": ["abc"]})}
    flags = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4, "num_iterations": 2}
    own = {"per_device_train_batch_size": 8, "steps_per_generation": 1, "max_steps": 4}
    made = trainer(tmp_path, RekindleTrainer, more=more, **flags, **own)
    made.train()
    heard = [line["heard"] for line in made.state.log_history if "heard" in line]
    assert heard == pytest.approx([0.0, 0.0, 2.0, 2.0]), "two updates a generation, at the progress of its start"
    assert [line["eval_heard"] for line in made.state.log_history if "eval_heard" in line] == [1.0, 2.0, 3.0, 3.0]


def test_ratios_of_sequences_have_no_bounds_of_tokens(tmp_path: Path) -> None:
    flags = {"per_device_train_batch_size": 8, "steps_per_generation": 1, "num_iterations": 3, "learning_rate": 0.03}
    made = trainer(tmp_path / "trl", trl.GRPOTrainer, importance_sampling_level="sequence", **flags)
    RekindleRecorder(tmp_path / "run").attach(made)
    made.train()
    steps = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["kind"] == "step"]
    assert len(steps) == 3 and not any("clip_low" in step or "clip_high" in step for step in steps)
    schema = pq.read_schema(tmp_path / "run" / "rollouts" / "step-000003.parquet")
    assert b"rekindle.clip" not in schema.metadata and "token_ratio" in schema.names
