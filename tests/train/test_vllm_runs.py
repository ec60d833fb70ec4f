"""Runs whose sampler has weights of its own: corrected, checked every step, and resumed after the engine is gone."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.core.aggregate import PromptMean, SamplerWeighted, TokenMean
from rekindle.core.stages import Stages
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.methods import evol_rl, luffy, tis
from rekindle.tokens.loader import Loaded
from rekindle.train import samplers, taking
from rekindle.train.agreement import agreement
from rekindle.train.build import make_run
from rekindle.train.config import Resolved, resolve
from rekindle.train.events import NoLog, read_events
from rekindle.train.folder import Folder
from rekindle.train.runfile import parse, to_toml
from rekindle.train.settings import RunConfig
from rekindle.train.start import Asked, prepare
from tests.batches import make_batch
from tests.cli.folders import rekindle
from tests.tokens.engines import CopyEngine

SMALL: dict[str, Any] = {
    "rollout.sampler": "vllm",
    "rollout.prompts": 2,
    "rollout.group": 3,
    "rollout.votes": 3,
    "rollout.max_tokens": 16,
    "descent.minibatches": 1,
    "evaluate.baseline": False,
    "vllm.probe": 1,
}


def engines(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> list[CopyEngine]:
    """Runs get a copy engine with these faults; the list holds those that were made."""
    there: list[CopyEngine] = []

    def make(config: RunConfig, loaded: Loaded, task: Any) -> CopyEngine:
        there.append(CopyEngine(loaded.model, **faults))
        return there[-1]

    monkeypatch.setattr(samplers, "make_engine", make)
    return there


def run(out: Path, steps: int = 2, resume: bool = False, **more: Any) -> Path:
    return train("evol_rl", task="digit_sum", steps=steps, out=out, resume=resume, options={**SMALL, **more})


def test_every_push_is_checked_and_the_ratio_is_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = engines(monkeypatch)
    steps = [e for e in read_events(run(tmp_path / "run", 3, **{"evaluate.every": 1, "evaluate.prompts": 1,
             "evaluate.samples": 2}) / "events.jsonl") if e["kind"] == "step"]  # fmt: skip
    for event in steps:
        assert event["sampler/tensors"] > 10 and event["sampler/probe_max"] < 1e-4
        assert event["sampler/gap"] < 1e-5 and abs(event["sampler/ratio"] - 1) < 1e-5
        assert event["sampler/ratio_max"] < 1.001 and event["sampler/capped"] == 0.0
        assert "entropy" not in event
    assert there[0].slept >= 3, "the engine rests while the model trains"


def test_another_temperature_is_caught_by_the_steps_own_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engines(monkeypatch, heat=1.1)
    with pytest.raises(GuardStop, match=r"log-probs of this step's \d+ tokens .*\(allowed 0.0001\)"):
        run(tmp_path / "run", **{"vllm.probe": 0, "vllm.correct": False})


def test_a_push_that_does_nothing_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engines(monkeypatch, deaf=True)
    with pytest.raises(GuardStop, match="computes with other weights"):
        run(tmp_path / "run", 4, **{"descent.lr": 1e-4})


def test_agreement_is_over_the_sampled_rows_in_nats() -> None:
    batch = make_batch()
    sampled = torch.full(batch.mask.shape, -1.0, dtype=torch.float64)
    off = torch.full((len(batch), 1), 5.0, dtype=torch.float64)
    off[0] = 0.1
    batch = batch.with_columns(logp_sampled=sampled, logp_old=sampled + off)
    told = agreement(batch, [batch.uid[:1]], allowed=0.2, cap=1.05)
    count = batch.live[0].sum().item()
    assert told["sampler/gap"] == pytest.approx((0.1 * count, count))
    assert told["sampler/ratio"] == pytest.approx((1.1051709180756477 * count, count))
    assert told["sampler/capped"] == (count, count)
    with pytest.raises(GuardStop, match=r"mean difference .* nats"):
        agreement(batch, [batch.uid], allowed=0.2, cap=2.0)
    assert agreement(batch, [], 0.2, 2.0) == {}


@pytest.mark.parametrize("broken", [float("-inf"), float("nan")])
def test_a_log_prob_that_is_no_number_stops_a_run_whatever_is_allowed(broken: float) -> None:
    batch = make_batch()
    old = torch.full(batch.mask.shape, -1.0, dtype=torch.float64)
    sampled = old.clone()
    row, place = batch.live.nonzero()[0].tolist()
    sampled[row, place] = broken
    batch = batch.with_columns(logp_sampled=sampled, logp_old=old)
    with pytest.raises(GuardStop, match=r"1 of this step's \d+ tokens have a log-prob that is no finite number"):
        agreement(batch, [batch.uid], allowed=float("inf"), cap=2.0)


def resolved(record: Any, **flags: Any) -> Resolved:
    return resolve("x", record, flags={"rollout.sampler": "vllm", **flags})


def test_a_run_on_vllm_is_corrected_and_says_so() -> None:
    found = resolved(evol_rl.method())
    assert found.record.aggregate == SamplerWeighted(inner=TokenMean(), level="token", cap=2.0)
    assert found.origin["aggregate"] == found.origin["aggregate.cap"] == "sampler"
    assert any("truncated importance sampling around the aggregate (TokenMean)" in note for note in found.notes)
    asked = resolved(evol_rl.method(), aggregate="PromptMean")
    assert asked.record.aggregate == SamplerWeighted(inner=PromptMean(), level="token", cap=2.0)
    assert resolved(evol_rl.method(), **{"vllm.correct": False}).record == evol_rl.method()
    assert resolved(tis.method()).record == tis.method() and not resolved(tis.method()).notes
    assert resolve("x", evol_rl.method()).record == evol_rl.method()


def test_rows_that_nobody_sampled_cannot_be_corrected() -> None:
    with pytest.raises(InputError, match=r"brings rows that nobody sampled.*set vllm.correct=false"):
        resolved(luffy.method())
    assert resolved(luffy.method(), **{"vllm.correct": False}).record == luffy.method()


def test_every_stage_is_corrected() -> None:
    staged = Stages(methods=(evol_rl.method(), tis.method()), until=(0.5, 1.0))
    found = resolved(staged)
    assert [type(method.aggregate) for method in found.record.methods] == [SamplerWeighted] * 2
    assert found.record.methods[1] == tis.method() and found.origin["methods.0.aggregate"] == "sampler"


def test_the_corrected_record_comes_back_from_its_run_toml() -> None:
    found = resolved(evol_rl.method(), aggregate="PromptMean", **{"vllm.seats": 7})
    again = resolve("x", evol_rl.method(), toml=parse(to_toml(found), "run.toml"))
    assert again.record == found.record and again.config == found.config


def test_a_run_goes_on_from_its_last_step_after_the_engine_died(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines(monkeypatch)
    whole = run(tmp_path / "whole", 4)
    engines(monkeypatch, dies=6)  # a probe and a sample a step: dead in the fourth
    with pytest.raises(EngineDead, match="--resume"):
        run(tmp_path / "run", 4)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    engines(monkeypatch)
    again = run(tmp_path / "run", 4, resume=True)
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_step_is_kept_where_the_engine_died_in_its_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    often = {"evaluate.every": 1, "evaluate.prompts": 1, "evaluate.samples": 2}
    engines(monkeypatch)
    whole = run(tmp_path / "whole", 3, **often)
    engines(monkeypatch, dies=5)  # probe, sample, probe, evaluation; sample, then dead in the probe of the second
    with pytest.raises(EngineDead):
        run(tmp_path / "run", 3, **often)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    engines(monkeypatch)
    again = run(tmp_path / "run", 3, resume=True, **often)
    a, b = (load_file(folder / "final" / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_demonstrations_are_not_compared_with_a_sampler_that_never_saw_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines(monkeypatch)
    options = {**SMALL, "vllm.correct": False, "rollout.max_tokens": 40}
    out = train("luffy", task="digit_sum", steps=1, out=tmp_path / "run", options=options)
    (step,) = [event for event in read_events(out / "events.jsonl") if event["kind"] == "step"]
    assert step["sampler/gap"] < 1e-5


def test_without_vllm_the_command_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ("train", "evol_rl", "--task", "digit_sum", "--sampler", "vllm", "--out", tmp_path / "x")
    ended = rekindle(capsys, *asked, "--set", "vllm.url=http://127.0.0.1:9")
    assert ended.code == 2 and "no vLLM server of rekindle answers" in ended.err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = rekindle(capsys, *asked)
    assert ended.code == 2 and "vLLM is not installed" in ended.err and not (tmp_path / "x").exists()


def test_what_an_engine_does_not_compute_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vLLM does not compute in float64: set vllm.dtype=float32"):
        run(tmp_path / "run", dtype="float64")


def test_what_a_step_has_kept_is_undone_where_the_engine_dies_before_its_update(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Dying:
        """A record whose step replays, and whose engine does not rest."""

        def step(self, run: Any) -> None:
            run.kept["replay.2.uid"] = torch.ones(1)
            del run.kept["replay.1.uid"]
            raise EngineDead("the engine does not rest")

    saved: list[set[str]] = []
    monkeypatch.setattr(taking, "save_together", lambda run, *_: saved.append(set(run.kept)))
    run = make_run(*prepare(Asked("remix", {"task": "digit_sum", "steps": 4})))
    run.resolved, run.step_index, run.record = resolved(evol_rl.method()), 2, Dying()
    run.kept["replay.1.uid"] = torch.zeros(1)
    with pytest.raises(EngineDead):
        taking.taken_step(run, Folder(tmp_path), NoLog())
    assert saved == [{"replay.1.uid"}]
