"""What `explain` says of several processes, an engine that samples, cut minibatches, and precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.interop.explain.answer import explain
from rekindle.interop.explain.text import overrides, text
from rekindle.interop.explain.written import imported
from tests.interop.records import resolved

SIZES = ("rollout.prompts=8", "rollout.group=8", "descent.minibatches=2")


def trl(*sets: str, name: str = "grpo") -> Any:
    return explain(resolved(name, *sets), "trl")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_share_a_minibatch(ranks: int) -> None:
    flags = trl(*SIZES, f"ranks={ranks}", "descent.micro_batch=8").flags
    rows = flags["per_device_train_batch_size"] * ranks * flags["gradient_accumulation_steps"]
    assert rows == 32, "of an update"
    assert flags["per_device_train_batch_size"] <= 8
    assert flags["steps_per_generation"] == 2 * flags["gradient_accumulation_steps"]
    verl = explain(resolved("grpo", *SIZES, f"ranks={ranks}"), "verl").flags
    micro = verl["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"]
    assert micro == 32 // ranks and verl["trainer.n_gpus_per_node"] == ranks


def test_how_many_processes_there_are_is_said() -> None:
    assert "# without a flag: the run: the sizes are of each of 2 processes" in text(trl(*SIZES, "ranks=2"))
    assert "processes" not in text(trl(*SIZES))
    lack = next(one for one in trl(*SIZES, "ranks=3").said.lacking if one.path == "ranks")
    assert lack.what == "3" and "32" in lack.reason


def test_an_engine_that_samples_without_correction_is_said() -> None:
    flags = trl("rollout.sampler=vllm", "vllm.correct=false").flags
    assert flags["use_vllm"] is True and flags["vllm_importance_sampling_correction"] is False
    corrected = trl("rollout.sampler=vllm").flags
    assert corrected["use_vllm"] is True and "vllm_importance_sampling_correction" not in corrected
    assert corrected["vllm_importance_sampling_mode"] == "token_truncate"
    assert "use_vllm" not in trl().flags


def test_an_engine_without_correction_comes_back(tmp_path: Path) -> None:
    run = resolved("grpo", "rollout.sampler=vllm", "vllm.correct=false")
    (tmp_path / "x.json").write_text(json.dumps(explain(run, "trl").flags))
    found = imported(str(tmp_path / "x.json"), "trl").resolved
    assert found.config.rollout.sampler == "vllm" and not found.config.vllm.correct
    assert found.record.aggregate == run.record.aggregate


@pytest.mark.parametrize("name", ["entropy_bonus", "entropy_adaptive"])
def test_a_bonus_over_several_passes_has_other_numbers(name: str) -> None:
    one, many = (trl(*SIZES, f"descent.micro_batch={n}", name=name) for n in (32, 8))
    shared = trl(*SIZES, "descent.micro_batch=32", "ranks=2", name=name)
    numbers = [text(answer).partition("# other numbers")[2] for answer in (one, many, shared)]
    assert ["of each micro-batch" in told for told in numbers] == [False, True, True], "processes are passes, too"


def test_full_precision_is_asked_of_each_engine() -> None:
    said = list(overrides(explain(resolved("grpo"), "verl").flags))
    assert "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32" in said
    assert not any("fsdp_config.dtype" in one or ".ref." in one for one in said)
    half = explain(resolved("grpo", "precision=bf16"), "verl").flags
    assert half["+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype"] == "bf16"
    engines = [f for name in ("ttrl", "ppo_clip") for f in explain(resolved(name), "verl").flags if "param_dtype" in f]
    assert "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype" in engines
    assert "+critic.fsdp.mixed_precision.param_dtype" in engines


@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_precision_comes_back(tmp_path: Path, precision: str) -> None:
    told = text(explain(resolved("grpo", f"precision={precision}"), "verl"))
    (tmp_path / "run.sh").write_text(told.partition("# flags")[2].partition("# without")[0])
    found = imported(str(tmp_path / "run.sh"), "verl")
    assert found.resolved.config.precision == precision
    assert not any("precision:" in note or "not understood" in note for note in found.notes)
