"""Runs that search: what they leave, how they resume, who is told of each candidate, and what they refuse."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rekindle.api import evaluate, train
from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.core.evolution import MEMORY
from rekindle.core.types import Metrics
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.rollouts import Rollouts
from rekindle.train.build import make_run
from rekindle.train.checkpoint import optimizer_tensors
from rekindle.train.events import read_events
from rekindle.train.find import find_method, make_method
from rekindle.train.launch import placed
from rekindle.train.loop import quick_evaluation
from rekindle.train.plan import planned
from rekindle.train.ranks import Place
from rekindle.train.refusals import check_run
from rekindle.train.retention import checkpoints
from rekindle.train.run import Run
from rekindle.train.start import Asked, prepare
from rekindle.train.vocabulary import step_of
from tests.methods.resumed import assert_alike, memory
from tests.train.searched import SMALL, given, words
from tests.train.test_run import killed

STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given(tmp_path_factory.mktemp("given"))


def run(place: Path, out: Path, steps: int = STEPS, method: str = "essa", **options: Any) -> Path:
    heard, resume = options.pop("heard", None), options.pop("resume", False)
    said = {**words(place), **{n: options.pop(n) for n in ("model", "data", "reward") if n in options}}
    return train(method, steps=steps, out=out, options={**SMALL, **options}, heard=heard, resume=resume, **said)


def asked(place: Path, method: str = "essa", **options: Any) -> Asked:
    return Asked(method, {**words(place), **SMALL, "steps": 2, **options})


def made(place: Path, **options: Any) -> Run:
    return make_run(*prepare(asked(place, **options)))


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(place, tmp_path_factory.mktemp("whole") / "run")


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]


# --- what a run leaves ----------------------------------------------------------------------------------------------


def test_a_run_leaves_the_mean_as_an_adapter_and_no_optimiser(place: Path, whole: Path) -> None:
    final, start = (load_file(f / "adapter_model.safetensors") for f in (whole / "final", place / "adapter"))
    assert final.keys() == start.keys() and any((final[n] - start[n]).abs().max() > 1e-3 for n in final)
    last = checkpoints(whole / "checkpoints")[-1]
    assert load_file(last / "state" / "optimizer.safetensors") == {}
    kept = load_file(last / "state" / "kept.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"factors"} and len(kept) == 14 * 2 * 3
    first = load_file(checkpoints(whole / "checkpoints")[0] / "state" / "kept.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in kept.items()), "directions never change"
    for name, value in final.items():
        rank = torch.linalg.matrix_rank(value.double())
        assert rank <= 4, name
    fitness = memory(whole)[MEMORY]["fitness"]
    assert len(fitness) == STEPS and all(len(row) == 5 for row in fitness)
    assert set(memory(whole)) >= {"evolution", "history", "prompts"} and memory(whole)["prompts"] == 3 * STEPS


def test_the_record_says_what_candidates_are_worth(whole: Path) -> None:
    for event, fitness in zip(steps_of(whole), memory(whole)[MEMORY]["fitness"], strict=True):
        assert event["fitness/best"] == max(fitness) and event["fitness/worst"] == min(fitness)
        assert event["fitness"] == pytest.approx(sum(fitness) / 5)
        assert event["responses"] == 3 + 5 * 3 and {"try", "sample"} <= set(event["time"])
        assert event["signal"] == float(len(set(fitness)) > 1) and "groups/dead" not in event
        assert "grad_norm" not in event and "loss" not in event
    assert any(len(set(row)) > 1 for row in memory(whole)[MEMORY]["fitness"]), "candidates differ"


def test_a_searched_model_is_measured_and_exported_as_any_other(place: Path, whole: Path, tmp_path: Path) -> None:
    how = {"data": place / "rows.jsonl", "samples": 2, "max_tokens": 6}
    assert evaluate(whole, **how).mean["entropy"] > 0
    assert run_safely(app, ["export", str(whole), str(tmp_path / "merged"), "--merge"]) == 0
    assert (whole / "final-merged" / "model.safetensors").is_file()


def test_a_run_without_a_gradient(place: Path) -> None:
    going = made(place)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pytest.fail("a graph"), lambda packed: packed):
        going.record.step(going)
    assert all(p.grad is None for _, p in going.trainable()) and optimizer_tensors(going) == {}
    assert going.references == {} and not going.policy.heads


# --- resuming -------------------------------------------------------------------------------------------------------


def test_a_run_thrown_back_ends_as_the_whole_one(place: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "final")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{step:06d}")
    assert_alike(whole, run(place, tmp_path / "cut", resume=True))


def test_a_killed_process_resumes_bit_for_bit(place: Path, tmp_path: Path) -> None:
    """On a busy machine the kill may come after the end, which proves nothing: then again."""
    said, steps = words(place), 12
    command = [sys.executable, "-m", "rekindle", "train", "essa", "--steps", str(steps), "--model", said["model"]]
    command += ["--data", said["data"], "--reward", said["reward"][0]]
    command += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    out = next(out for out in (tmp_path / f"run{i}" for i in range(5)) if killed([*command, "--out", str(out)], out))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = run(place, tmp_path / "whole", steps)
    assert_alike(alone, run(place, out, steps, resume=True), steps)
    torch.set_num_threads(threads)


def test_another_search_is_not_gone_on_with(place: Path, whole: Path) -> None:
    with pytest.raises(InputError, match=r"changed options: search.population \(5 -> 6\)"):
        run(place, whole, resume=True, **{"search.population": 6})


# --- candidates -----------------------------------------------------------------------------------------------------


class Told:
    """A sampler that remembers the weights that it was brought to, and those that it drew with."""

    def __init__(self, inner: Any, weights: Any) -> None:
        self.inner, self.weights, self.pushed, self.drew = inner, weights, 0, []
        self.apart = None

    def sample(self, examples: Sequence[Any], *how: Any, **named: Any) -> Rollouts:
        self.drew.append((self.weights(), [example.id for example in examples], named["first_group"]))
        return self.inner.sample(examples, *how, **named)

    def push(self) -> Metrics:
        self.pushed += 1
        return {}

    def rest(self) -> None: ...

    def close(self) -> None: ...


def test_the_sampler_is_told_of_every_candidate_and_all_answer_the_same(place: Path) -> None:
    going = made(place)
    told = Told(going.sampler, lambda: float(sum(b.double().sum() for _, b in going.factors())))
    going.sampler = told
    going.record.step(going)
    assert told.pushed == 6 and going.stale, "the mean before, and five candidates"
    assert len({weights for weights, _, _ in told.drew}) == 6
    assert len({tuple(ids) for _, ids, _ in told.drew}) == 1
    assert [first for _, _, first in told.drew] == [0] + [3] * 5, "candidates share their draws"
    assert going.memory["groups"] == 3
    fitness = going.memory[MEMORY]["fitness"][0]
    going.record.step(going)
    assert told.drew[6][2] == 3 and going.memory[MEMORY]["fitness"][0] == fitness


def test_drawn_candidates_share_the_uniforms(place: Path) -> None:
    found = {}
    for greedy in (True, False):
        going = made(place, **{"collect.greedy": greedy})
        examples = going.next_examples(3)
        one, two = (going.tried(examples, going.record.collect.greedy) for _ in range(2))
        assert one.text == two.text and one.uid.tolist() == [0, 1, 2]
        found[greedy] = one.text
    assert found[True] != found[False]


def test_a_failure_among_candidates_leaves_the_mean(place: Path) -> None:
    going = made(place)
    before = [b.detach().clone() for _, b in going.factors()]
    told = Told(going.sampler, lambda: 0.0)
    going.sampler = told

    def push() -> Metrics:
        told.pushed += 1
        if told.pushed == 4:
            raise GuardStop("the engine has other weights")
        return {}

    told.push = push  # type: ignore[method-assign]
    with pytest.raises(GuardStop, match="other weights"):
        going.record.step(going)
    assert going.memory[MEMORY]["fitness"] == []
    for (_, b), old in zip(going.factors(), before, strict=True):
        torch.testing.assert_close(b.detach(), old, rtol=1e-5, atol=1e-6)


# --- what is refused, and what is told ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "whole"}, "'essa' searches an adapter and there is none: add --lora RANK"),
        ({"space.share": 0.1}, "the singular-value count is zero: space.share=0.1 of rank 4 is less than one value"),
        ({"model": "whole", "lora.rank": 8, "space.share": 0.1}, "of rank 8 is less than one value"),
        ({"search.population": 3}, "option 'search.population' cannot be 3: CMA-ES takes a population of 4 or more"),
        ({"search.sigma": 0.0}, "option 'search.sigma' cannot be 0: the first step size"),
        ({"space.share": 1.5}, "option 'space.share' cannot be 1.5: the share of singular values"),
        ({"rollout.sampler": "ray"}, "a fleet is for many responses of the same: set --sampler local or vllm"),
        ({"rollout.sampler": "vllm", "vllm.url": "http://x", "ranks": 2}, "a vLLM server has the weights of one"),
        ({"collect.label": "MajorityVote", "reward": ()}, "a vote needs several: set collect.label=Verified"),
        ({"ranks": 2, "shard": "full"}, "shard=full"),
        ({"descent.lr": 0.1}, "unknown option 'descent.lr'"),
    ],
)
def test_what_cannot_be_searched(place: Path, options: dict[str, Any], told: str) -> None:
    if options.get("model") == "whole":
        options = {**options, "model": str(place / "model")}
    with pytest.raises(InputError) as refused:
        resolved, task = prepare(asked(place, **options))
        check_run(resolved, task)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_combinations_and_stages_are_refused(tmp_path: Path) -> None:
    for name in ("essa+grpo", "grpo+essa"):
        with pytest.raises(InputError, match=r"'essa' searches without a gradient.*--model RUN/final"):
            find_method(name)
    (tmp_path / "two.py").write_text(
        "from rekindle.core.stages import Stages\nfrom rekindle.methods import essa, grpo\n\n\n"
        "def method():\n    stages = Stages(methods=(grpo.method(),), until=(1.0,))\n"
        "    object.__setattr__(stages, 'methods', (grpo.method(), essa.method()))  # tests check types before we do\n"
        "    return stages\n\n\n"
        "def own():\n    from rekindle.prove.factors import Accuracy\n"
        "    return essa.method().replace(collect=Accuracy())\n"
    )
    with pytest.raises(InputError, match="a search among its stages: train one after the other"):
        make_method(find_method(f"{tmp_path / 'two.py'}:method"))
    with pytest.raises(InputError, match="or an Evolution that collects Responses"):
        make_method(find_method(f"{tmp_path / 'two.py'}:own"))


def test_what_is_left_unused_is_said_and_the_profile_is_fitted(place: Path) -> None:
    resolved, _ = prepare(asked(place, **{"rollout.group": 4}))
    assert [note for note in resolved.notes if note.startswith("rollout.group is not used")]
    resolved, _ = prepare(Asked("essa", {"task": "digit_sum", "lora.rank": 4}))
    assert not resolved.notes and not any(path.startswith("descent") for path in resolved.options)
    assert resolved.config.rollout.prompts == prepare(Asked("grpo", {"task": "digit_sum"}))[0].config.rollout.prompts


def test_a_new_adapter_is_warned_of_and_a_flat_landscape_ends_the_run(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    options = {**SMALL, "lora.rank": 2, "empty_steps": 2, "search.sigma": 1e-6, "rollout.max_tokens": 6}
    with pytest.raises(GuardStop, match="all candidates were worth the same in each of the last 2 steps"):
        train("essa", task="digit_sum", steps=5, out=tmp_path / "run", options=options, heard=heard.append)
    assert any("no warm start" in record["text"] for record in heard if record["kind"] == "note")


def test_a_trained_adapter_is_not_warned_of(place: Path) -> None:
    going = made(place)
    assert going.method.space.told(going) == ()  # type: ignore[union-attr]


# --- plans and comparisons ------------------------------------------------------------------------------------------


def test_a_plan_of_a_search(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolved, task = prepare(asked(place))
    plan = planned(resolved, task)
    step = plan.step
    assert (step.sampled, step.trained, step.updates, step.passes, step.candidates) == (15, 0, 0, 0, 5)
    assert step.minibatch_sizes == () and step.elsewhere() == {} and step.problems() == ()
    memory = plan.memory
    assert not memory.update and not memory.score and "optimizer" not in memory.held
    assert memory.held["singular vectors"] > 0 and plan.fits
    json.dumps(plan.numbers())
    two = placed(resolved, Place(0, 2, 0))
    assert two.config.ranks == 2 and two.config.rollout.block == resolved.config.rollout.block, "blocks stay whole"
    assert "set search.population=6" in step_of(two).problems()[0] and step_of(two).drawing_share == 3 / 5
    said = words(place)
    told = ["train", "essa", "--model", said["model"], "--data", said["data"], "--reward", said["reward"][0]]
    told += [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    assert run_safely(app, [*told, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "candidates" in out and "5 a step, one response each to every prompt: 15 sequences" in out
    assert "none: the weights follow the best candidates" in out and "a step" in out and "micro-batch" not in out
    assert run_safely(app, [*told, "--dry-run", "--json", "--no-probe"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["step"]["candidates"] == 5


def test_searches_are_shown_and_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_safely(app, ["show", "essa"]) == 0
    assert "search.population  96" in capsys.readouterr().out
    assert run_safely(app, ["diff", "grpo", "essa"]) == 0
    assert "Evolution(" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_comparison_with_a_method_that_descends(tmp_path: Path) -> None:
    sets = {"lora.rank": 2, "rollout.prompts": 2, "rollout.group": 4, "rollout.max_tokens": 6}
    command = ["compare", "grpo", "essa", "--task", "digit_sum", "--seeds", "1", "--steps", "2", "--samples", "16"]
    command += [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    assert run_safely(app, [*command, "--prompts", "4", "--out", str(tmp_path / "c")]) == 0
    found = json.loads((tmp_path / "c" / "results.json").read_text())
    assert set(found["methods"]) == {"grpo", "essa"} and found["methods"]["essa"]["pass@1"]


def test_a_run_that_searches_is_evaluated(place: Path) -> None:
    found = quick_evaluation(made(place, **{"evaluate.prompts": 2, "evaluate.samples": 1})).mean
    assert found["entropy"] > 0
