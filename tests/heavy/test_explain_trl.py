"""The flags that `explain --as trl` prints, given to TRL 1.16's own `GRPOConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rekindle import methods
from rekindle.interop.explain.answer import explain
from rekindle.interop.explain.matrix import rivals
from rekindle.interop.explain.text import text
from tests.interop.records import resolved

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl", reason="TRL is in the environment of `make test-heavy` only: flags NOT CHECKED")


def config(trl: Any, flags: dict[str, Any], folder: Path) -> Any:
    return trl.GRPOConfig(**flags, output_dir=str(folder), report_to=[], use_cpu=True)


def test_the_version_is_the_one_that_is_named(trl: Any) -> None:
    assert f"TRL {trl.__version__}" in rivals()


@pytest.mark.parametrize("name", methods.names())
def test_the_flags_make_a_configuration(trl: Any, name: str, tmp_path: Path) -> None:
    flags = explain(resolved(name), "trl").flags
    made = config(trl, flags, tmp_path)
    for flag, value in flags.items():
        assert vars(made)[flag] == value, flag


@pytest.mark.parametrize("name", ["grpo", "evol_rl", "tis"])
def test_the_printed_snippet_runs(trl: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = text(explain(resolved(name), "trl")).partition("# flags")[2].partition("trainer =")[0]
    seen: dict[str, Any] = {}
    (tmp_path / "snippet.py").write_text(code.replace("GRPOConfig(\n", "GRPOConfig(use_cpu=True,\n"))
    monkeypatch.chdir(tmp_path)
    import runpy

    seen = runpy.run_path(str(tmp_path / "snippet.py"))
    assert type(seen["config"]) is trl.GRPOConfig


def test_a_steps_batch_is_ours(trl: Any, tmp_path: Path) -> None:
    run = resolved("grpo", "rollout.prompts=6", "rollout.group=4", "descent.minibatches=3", "descent.micro_batch=2")
    made = config(trl, explain(run, "trl").flags, tmp_path)
    assert made.generation_batch_size == 24, "all rows of a step"
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 8, "rows of an update"
    assert made.max_steps == 3 * run.config.steps, "updates"


def test_an_engine_without_correction_is_taken(trl: Any, tmp_path: Path) -> None:
    made = config(trl, explain(resolved("grpo", "rollout.sampler=vllm", "vllm.correct=false"), "trl").flags, tmp_path)
    assert made.use_vllm and not made.vllm_importance_sampling_correction


def test_adapters_have_trls_own_defaults(trl: Any) -> None:
    from rekindle.interop.explain.trl_config import LORA

    own = trl.ModelConfig()
    assert {name: vars(own)[name] for name in LORA} == LORA and own.use_peft is False


def test_a_learning_rate_is_trls_own_schedule(trl: Any, tmp_path: Path) -> None:
    import torch
    from transformers import get_scheduler

    run = resolved("ttrl")
    made = config(trl, explain(run, "trl").flags, tmp_path)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=made.learning_rate)
    steps = made.max_steps
    schedule = get_scheduler(made.lr_scheduler_type, optimizer, made.get_warmup_steps(steps), steps)
    for step in range(steps):
        wanted = run.record.at(step / steps).descent.lr
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, abs=2e-9), step
        optimizer.step()
        schedule.step()
