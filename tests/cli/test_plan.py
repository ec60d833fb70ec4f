"""`train --dry-run` from the command line: the lines of a plan, its refusals, its JSON, and the probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.cli.plan import speed_lines
from rekindle.tokens.tasks import load_task
from rekindle.train import probe as probes
from rekindle.train.launch import environment, threads_of
from rekindle.train.plan import planned
from rekindle.train.probe import Speed, probe
from rekindle.train.start import Asked, prepare
from tests.cli.folders import rekindle
from tests.train.test_plan import config_only, reduce_once

TINY = {"task": "digit_sum", "rollout.prompts": 2, "rollout.group": 2, "rollout.votes": 4, "steps": 50}
ARGS = ["train", "evol_rl", "--task", "digit_sum", "--prompts", "2", "--group", "2", "--set", "rollout.votes=4"]


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task `reduce` draws its 512 prompts anew each time that it is asked, which is slow under type checks."""

    def load(name: str) -> Any:
        return reduce_once() if name == "reduce" else load_task(name)

    monkeypatch.setattr("rekindle.train.source.load_task", load)


def test_a_plan_that_does_not_fit_is_printed_and_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["train", "evol_rl", "--model", config_only(tmp_path / "4B", "4B"), "--dry-run", "--assume-gpus", "1x80GiB"]
    ended = rekindle(capsys, *args)
    assert ended.code == 2 and ended.err.count("\n") == 1 and "the plan does not fit: a rank needs" in ended.err
    text = " ".join(ended.out.split())
    for words in (
        "Qwen3ForCausalLM, 4.02 B parameters in 36 layers",
        "64 responses a prompt are drawn, 32 of them are trained on",
        "in TRL per_device_train_batch_size 64 x gradient_accumulation_steps 1 x 1 rank = 64 completions an update",
        "in verl train_batch_size 8, rollout.n 64",
        "assumed: no tokenizer",
        "weights 15.0 GiB, optimizer 30.0 GiB, reference 15.0 GiB",
        "device cpu as asked for: there, add --device cuda",
        "does not fit in 79.0 GiB a rank, of 1 GPU of 80 GiB, assumed: add --set",
        "speed not measured: the GPUs are assumed",
        "rollout.group 32 profile",
    ):
        assert words in text, words
    way = ended.err.rpartition(": add ")[2].split(", or ")[0].split()
    again = rekindle(capsys, *args, *way)
    assert again.code == 0 and again.err == "" and "are left" in again.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4B"]


def test_eight_gpus_are_eight_ranks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    args = ["train", "evol_rl", "--model", config_only(tmp_path / "32B", "32B"), "--dry-run", "--json"]
    ended = rekindle(capsys, *args, "--assume-gpus", "8x80GiB", "--lora", "16", "--set", "lora.quantize=4bit")
    found = json.loads(ended.out)
    assert ended.code == 0 and "note: rollout.block=1 instead of 8" in ended.err
    assert found["plan"]["step"]["ranks"] == found["ranks"]["value"] == 8 and found["plan"]["memory"]["fits"] is True
    assert found["plan"]["speed"] == {"skipped": "not measured: the GPUs are assumed"}
    assert found["rollout.block"] == {"value": 1, "from": "ranks"}
    refused = rekindle(capsys, *args, "--assume-gpus", "8x80GiB")
    assert refused.code == 2 and json.loads(refused.out)["plan"]["memory"]["fits"] is False


def test_flags_that_need_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    ended = rekindle(capsys, *ARGS, "--assume-gpus", "1x80GiB")
    assert ended.code == 2 and "add --dry-run" in ended.err
    ended = rekindle(capsys, *ARGS, "--assume-gpus", "many", "--dry-run")
    assert ended.code == 2 and "COUNTxMEMORY" in ended.err and ended.out == ""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe has time for the run's own shape, on a machine that stands still at times, too."""
    monkeypatch.setattr(probes, "LIMIT", 300.0)


@pytest.mark.usefixtures("patient")
def test_the_probe_measures_and_leaves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    ended = rekindle(capsys, *ARGS, "--out", tmp_path / "run", "--dry-run", "--json")
    assert torch.equal(before, torch.random.get_rng_state()) and list(tmp_path.iterdir()) == []
    speed = json.loads(ended.out)["plan"]["speed"]
    assert ended.code == 0 and speed["sampling"] > 0 and speed["seconds"] < 300
    assert (speed["prompts"], speed["samples"], speed["rows"]) == (2, 4, 2) and speed["cut"] is False
    assert 1 <= speed["response"] <= speed["tokens"]
    assert set(speed["step"]) == {"sample", "score", "update"} and speed["step"]["update"] > 0
    text = rekindle(capsys, *ARGS, "--dry-run", "--no-probe").out
    assert "not measured (--no-probe)" in text and "tokens a second" not in text


@pytest.mark.usefixtures("patient")
def test_hours_follow_from_the_step() -> None:
    plan = planned(*prepare(Asked("grpo", {n: v for n, v in TINY.items() if n != "rollout.votes"})))
    speed = probe(plan, prepare(Asked("grpo", {"task": "digit_sum"}))[1])
    assert isinstance(speed, Speed)
    assert speed.run == pytest.approx(50 * sum(speed.step.values()) / 3600)
    assert speed.step["sample"] == pytest.approx(2 * 2 * speed.response / speed.sampling)


@pytest.mark.parametrize("method", ["nlpo", "soft_grpo"])
def test_what_is_drawn_under_a_rule_is_planned_and_not_measured(method: str) -> None:
    resolved, task = prepare(Asked(method, {"task": "digit_sum", "rollout.prompts": 2, "rollout.group": 2}))
    said = probe(planned(resolved, task), task)
    assert said == "not measured: the probe draws from the whole distribution, and the run under a rule"


def test_a_rank_of_a_cpu_is_measured_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    with threads_of(2):
        assert torch.get_num_threads() == 3 == int(environment(2, Path())["OMP_NUM_THREADS"])
    assert torch.get_num_threads() == before
    with threads_of(1):
        assert torch.get_num_threads() == before


@pytest.mark.usefixtures("patient")
def test_the_probe_of_several_ranks_has_the_threads_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    @contextmanager
    def seen(ranks: int) -> Iterator[None]:
        asked.append(ranks)
        yield

    monkeypatch.setattr("rekindle.train.probe.threads_of", seen)
    resolved, task = prepare(Asked("grpo", {"task": "digit_sum", "rollout.prompts": 2, "rollout.group": 2, "ranks": 2}))
    speed = probe(planned(resolved, task), task)
    assert isinstance(speed, Speed) and asked == [2]


@pytest.mark.usefixtures("patient")
def test_a_smaller_shape_gives_an_upper_bound() -> None:
    plan = planned(*prepare(Asked("grpo", {n: v for n, v in TINY.items() if n != "rollout.votes"})))
    speed = probe(plan, prepare(Asked("grpo", {"task": "digit_sum"}))[1])
    assert isinstance(speed, Speed)
    whole = dict(speed_lines(plan, replace(speed, cut=False)))
    less = dict(speed_lines(plan, replace(speed, cut=True)))
    assert "at most" not in whole["a step"] and "(the run's shape)" in whole["measured"]
    assert less["a step"].startswith("at most ") and "the run at most " in less["a step"]


def test_what_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, task = prepare(Asked("evol_rl", {**TINY, "rollout.sampler": "vllm"}))
    said = probe(planned(resolved, task), task)
    assert isinstance(said, str) and "the run with vllm" in said
    resolved, task = prepare(Asked("evol_rl", TINY))
    monkeypatch.setattr("rekindle.train.probe._LOADABLE", {True: 0, False: 0})
    said = probe(planned(resolved, task), task)
    assert isinstance(said, str) and "would not load and step within 10 seconds" in said


def test_the_page_shows_the_plan_of_today(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")
    args = ["train", "evol_rl", "--dry-run", "--assume-gpus"]
    small = rekindle(capsys, *args, "1x80GiB", "--model", config_only(tmp_path / "4B", "4B"))
    assert small.out.split("\noption ")[0].rstrip() in page and small.err in page
    sets = ["--set", "lora.rank=16", "--set", "lora.quantize=8bit"]
    large = rekindle(capsys, *args, "8x80GiB", "--model", config_only(tmp_path / "32B", "32B"), *sets)
    assert large.code == 0
    shown = large.out.split("\noption ")[0].rstrip()
    assert shown[shown.index("\nmemory ") :] in page


def test_the_page_shows_the_stored_measurements() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "planning.md").read_text(encoding="utf-8")
    rows = json.loads((root / "docs" / "results" / "memory.json").read_text(encoding="utf-8"))["rows"]
    assert rows
    for row in rows:
        sizes = f"{row['predicted'] / 2**20:,.0f} MiB | {row['measured'] / 2**20:,.0f} MiB | {row['ratio']:.2f}"
        assert f"| {row['size']} | {row['setting']} | {sizes} |" in page
