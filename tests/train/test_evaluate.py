"""Evaluation: one way to measure a model, at temperature 1, on evenly spread prompts, without numbers that are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rekindle.api import evaluate as api_evaluate
from rekindle.core.random import pack_key
from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.tasks import load_task
from rekindle.tokens.verify import Verifier
from rekindle.train import measure, worker
from rekindle.train.compare import Member, _tell, by_metric
from rekindle.train.evaluate import EVAL_SALT, evaluate, evaluation_sampling, spread
from rekindle.train.events import EventLog
from rekindle.train.measure import Measure, evaluate_model
from rekindle.train.start import Asked, prepare
from tests.cli.folders import rekindle

TASK = load_task("reduce")
RIGHT, INVALID = "(3*4)=12;12-2=10\n\\boxed{10}", "\\boxed{10}"


class Scripted:
    """A sampler that answers a prompt by its script, and keeps what it was asked."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts
        self.keys: list[torch.Tensor] = []
        self.asked: list[int] = []

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: torch.Tensor, first_group: int
    ) -> Rollouts:
        """The script's texts, each one token long."""
        self.keys.append(key)
        self.asked.append(len(examples))
        rows = [(i, e, text) for i, e in enumerate(examples) for text in self.texts[e.id]]
        count = len(rows)
        return Rollouts(
            example=[e for _, e, _ in rows],
            prompt=PromptRows(((1,),) * count),
            ids=torch.ones(count, 1, dtype=torch.int64),
            mask=torch.ones(count, 1, dtype=torch.bool),
            logp=torch.zeros(count, 1),
            logp_sampled=torch.zeros(count, 1),
            entropy=torch.zeros(count, 1),
            text=[text for *_, text in rows],
            finish=["eos"] * count,
            group=torch.tensor([i + first_group for i, *_ in rows]),
            uid=torch.arange(count) + n * first_group,
        )


def scripted(*texts: list[str]) -> tuple[Scripted, list[Example]]:
    examples = [Example(f"p{i}", "3*4-2=", "10") for i in range(len(texts))]
    return Scripted({e.id: t for e, t in zip(examples, texts, strict=True)}), examples


def measured(*texts: list[str]):
    sampler, examples = scripted(*texts)
    return evaluate(sampler, Verifier(TASK), examples, Sampling(max_tokens=8), samples=2, ks=(1,), seed=3), sampler


def test_invalid_right_is_over_the_prompts_that_have_a_right_answer() -> None:
    found, sampler = measured(["\\boxed{10}", "\\boxed{9}"], ["\\boxed{8}", "\\boxed{9}"])
    assert found.mean["pass@1"] == 0.25
    assert found.mean["invalid_right"] == 1.0  # not 0.5: the second prompt has no right answer
    assert found.error["invalid_right"] != found.error["invalid_right"]  # of one prompt there is none
    assert torch.equal(sampler.keys[0], pack_key(3 + EVAL_SALT, 0, 0))


def test_several_ranks_are_handed_a_block_each_and_measure_the_same() -> None:
    texts = [[f"\\boxed{{{10 - (i + j) % 2}}}" for j in range(2)] for i in range(7)]
    sizes: list[list[int]] = []
    found = []
    for at_once in (1, 3):
        sampler, examples = scripted(*texts)
        how = {"samples": 2, "ks": (1, 2), "seed": 3}
        found.append(
            evaluate(sampler, Verifier(TASK), examples, Sampling(max_tokens=8, block=2), **how, at_once=at_once)
        )
        sizes.append(sampler.asked)
    assert sizes == [[2, 2, 2, 1], [6, 1]]
    assert found[0].mean == found[1].mean and found[0].mean["pass@1"] == 0.5


def test_without_a_right_answer_invalid_right_is_absent() -> None:
    found, _ = measured(["\\boxed{8}", "\\boxed{9}"], ["\\boxed{8}", "\\boxed{9}"])
    assert "invalid_right" not in found.mean and "invalid_right" not in found.error
    assert found.mean["pass@1"] == 0.0 and found.mean["distinct"] == 0.0
    base, runs = {"pass@1": 0.5}, [{"pass@1": 0.6, "invalid_right": 0.2}, {"pass@1": 0.7}]
    assert by_metric(base, runs) == {"pass@1": [0.6, 0.7], "invalid_right": [0.2, None]}


def test_spread_is_even_and_whole_where_there_are_few() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 5) == [1, 2]


def test_the_command_the_library_and_a_comparison_measure_alike(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ["eval", "embedded", "--task", "digit_sum", "-n", "4", "--prompts", "7", "--seed", "2"]
    said = json.loads(rekindle(capsys, *args, "--json").out)
    found = api_evaluate("embedded", task="digit_sum", samples=4, prompts=7, seed=2)
    assert dict(found.mean) == said and found.prompts == 7
    job = {"method": None, "base": "ttrl", "flags": {"task": "digit_sum"}, "sets": [], "seed": 0, "threads": 1}
    hot = {"sets": ["rollout.temperature=0.5"]}
    measure = {"prompts": 7, "samples": 4, "ks": [1, 4], "eval_seed": 2, "out": str(tmp_path / "base")}
    before = torch.get_num_threads()
    worker.work(job | hot | measure)
    torch.set_num_threads(before)
    metrics = json.loads((tmp_path / "base" / "result.json").read_text())["metrics"]
    assert {name: metrics[name] for name in said} == said
    other = api_evaluate("embedded", task="digit_sum", samples=4, prompts=7, seed=2, dtype="float64", max_tokens=3)
    assert other.mean["length"] <= 3 and other.mean["truncated"] > found.mean["truncated"]


def test_a_run_folder_and_its_model_measure_alike(tmp_path: Path) -> None:
    task = load_task("digit_sum")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").write_text("")
    with pytest.raises(InputError, match="not finished"):
        api_evaluate(run, task="digit_sum")
    with pytest.raises(InputError, match="unknown split 'heldut'"):
        evaluate_model("./nowhere", task, ("heldut",), Sampling(max_tokens=6), Measure())


def test_prompts_are_counted() -> None:
    seen: list[tuple[int, int]] = []
    how = Measure(prompts=10, samples=2, ks=(1,))
    task = load_task("digit_sum")
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    evaluate_model("embedded", task, ("heldout",), Sampling(max_tokens=6), how, progress)
    assert seen == [(8, 10), (10, 10)]


def test_a_run_is_evaluated_at_temperature_one() -> None:
    sets = ("rollout.temperature=0.7", "rollout.max_tokens=5", "rollout.block=3", "rollout.stop=['x']")
    resolved, _ = prepare(Asked("grpo", {"task": "digit_sum"}, sets))
    assert evaluation_sampling(resolved) == Sampling(max_tokens=5, block=3, stop=("x",))


def test_the_records_of_a_member_are_told_once(tmp_path: Path) -> None:
    member, told, heard = Member("ttrl", 0, tmp_path), {}, []

    def tell() -> list[tuple[str, int]]:
        heard.clear()
        _tell(member, told, lambda name, record: heard.append((record["kind"], record["step"])))
        return list(heard)

    assert tell() == []
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("start", 0, {})
        log.write("step", 1, {"text": "é\u2028"})
        assert tell() == [("start", 0), ("step", 1)] and tell() == []
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert tell() == []
    with EventLog(tmp_path / "events.jsonl") as log:  # a resumed run cuts the torn line off
        log.resume(1)
        log.write("step", 2, {})
    assert tell() == [("resume", 1), ("step", 2)]
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write("no event\n")
    with pytest.raises(InputError, match="no event"):
        tell()


def test_a_comparison_evaluates_with_the_system_prompt_that_it_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    real = measure.load_model

    def spy(spec: str, *, system_prompt: str | None, **where: str) -> object:
        seen.append(system_prompt)
        return real(spec, system_prompt=system_prompt, **where)

    monkeypatch.setattr(measure, "load_model", spy)
    task = load_task("digit_sum")
    for asked in ("task", "Answer tersely.", None):
        how = measure.Measure(prompts=1, samples=2, system_prompt=asked)
        measure.evaluate_model("embedded", task, ("heldout",), measure.task_sampling(task, None), how)
    assert seen == [task.system_prompt, "Answer tersely.", None]
