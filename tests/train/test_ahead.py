"""Runs whose responses come from a fleet: within the step as the local sampler's, ahead of it by counting, resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.core.aggregate import SamplerWeighted, TokenMean
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.methods import evol_rl, greso, luffy
from rekindle.tokens.loader import load_model
from rekindle.tokens.sampling import hands
from rekindle.tokens.sampling.crew import Block, WorkerGone
from rekindle.tokens.sampling.ray_fleet import Place
from rekindle.tokens.stream import stretch
from rekindle.tokens.tasks import load_task
from rekindle.train import build, fleets
from rekindle.train.ahead import Window, staleness_histogram, staleness_metrics
from rekindle.train.config import Resolved, resolve
from rekindle.train.drawn import sampling_of
from rekindle.train.events import read_events, timeless
from rekindle.train.fleets import check_fleet
from tests.ray.crews import ThreadCrew
from tests.tokens.engines import CopyEngine

SMALL: dict[str, Any] = {
    "rollout.sampler": "ray",
    "rollout.prompts": 3,
    "rollout.block": 1,
    "rollout.group": 3,
    "rollout.votes": 3,
    "rollout.max_tokens": 8,
    "descent.minibatches": 1,
    "descent.lr": 1e-4,
    "evaluate.baseline": False,
    "checkpoint.every": 3,
}


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[ThreadCrew]:
    """Runs get threads in place of Ray's actors; the list holds the crews that were made."""
    there: list[ThreadCrew] = []

    def make(plan: Any, size: int, place: Place, weights_bytes: int) -> ThreadCrew:
        there.append(ThreadCrew(plan, size))
        return there[-1]

    monkeypatch.setattr(fleets, "RayCrew", make)
    return there


def run(
    out: Path, steps: int = 4, resume: bool = False, method: str = "evol_rl", heard: Any = None, **more: Any
) -> Path:
    options = {"task": "digit_sum", **SMALL, **more}
    return train(method, steps=steps, out=out, resume=resume, heard=heard, options=options)


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def equal(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sampled(folder: Path) -> dict[int, tuple[list[str], list[int]]]:
    """Step -> its prompts in order, a row each, and uids: from the archived rollouts."""
    tables = {int(f.stem.removeprefix("step-")): pq.read_table(f) for f in sorted((folder / "rollouts").iterdir())}
    return {step: (table["id"].to_pylist(), table["uid"].to_pylist()) for step, table in tables.items()}


def nothing_lost_or_repeated(folder: Path, steps: int, prompts: int = 3, task: str = "digit_sum") -> None:
    """Every step trained on its stretch of the stream, with uids that no other step has."""
    stream, n = [e.id for e in stretch(load_task(task).split("train"), 0, steps * prompts, 0)], 3
    found = sampled(folder)
    assert sorted(found) == list(range(1, steps + 1))
    for step, (ids, uids) in found.items():
        first = (step - 1) * prompts
        assert ids == [name for name in stream[first : first + prompts] for _ in range(n)]
        assert uids == list(range(first * n, (first + prompts) * n))


def test_a_fleet_that_draws_within_the_step_trains_as_the_local_sampler_does(
    crews: list[ThreadCrew], tmp_path: Path
) -> None:
    alone = run(tmp_path / "alone", **{"rollout.sampler": "local"})
    many = run(tmp_path / "many", **{"ray.samplers": 3})
    assert equal(alone, many) and not equal(alone, Path(run(tmp_path / "other", 3, **{"rollout.sampler": "local"})))
    told = steps_of(many)
    assert [event.pop("sampler/tensors") > 10 for event in told] == [True] * 4
    assert timeless(told) == timeless(steps_of(alone))
    assert all(crews[0].drawn_by().values()), "every worker drew"
    assert not any(name.startswith("sampler/") for name in told[0]), "nothing to compare: the numbers are the same"


def test_a_window_of_one_is_the_synchronous_run_bit_for_bit(
    crews: list[ThreadCrew], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = run(tmp_path / "within")
    monkeypatch.setattr(build, "make_ahead", lambda resolved, sampler: Window(sampler, 0, sampling_of(resolved)))
    ahead = run(tmp_path / "ahead")
    assert equal(within, ahead)
    assert [event["sampler/staleness/0"] for event in steps_of(ahead)] == [1.0] * 4
    nothing_lost_or_repeated(ahead, 4)


def test_a_batch_trains_at_most_k_updates_after_its_weights(crews: list[ThreadCrew], tmp_path: Path) -> None:
    out = run(tmp_path / "run", 6, **{"ray.staleness": 2})
    told = steps_of(out)
    assert [event["sampler/staleness"] for event in told] == [0, 1, 2, 2, 2, 2]
    assert [event["sampler/staleness_max"] for event in told] == [0, 1, 2, 2, 2, 2]
    assert staleness_histogram(told) == {0: 1 / 6, 1: 1 / 6, 2: 4 / 6}
    assert all(event["responses"] == 9 for event in told)
    nothing_lost_or_repeated(out, 6)
    loads = [version for what, _, version in crews[0].log if what == "load"]
    assert max(loads) == 4 and len(set(sampled(out)[6][1])) == 9, (
        "the last steps begin nothing that is never trained on"
    )


def test_the_gap_of_older_weights_is_logged_and_corrected_and_stops_nothing(
    crews: list[ThreadCrew], tmp_path: Path
) -> None:
    told = steps_of(run(tmp_path / "run", 5, **{"ray.staleness": 2, "descent.lr": 1e-3}))
    assert told[0]["sampler/gap"] < 1e-5, "the first batch is of the start weights"
    assert min(event["sampler/gap"] for event in told[2:]) > 1e-3, "far above what the synchronous check lets pass"
    assert all(event["sampler/ratio"] != 1.0 and "sampler/capped" in event for event in told[2:])


def test_an_asynchronous_run_is_reproducible(crews: list[ThreadCrew], tmp_path: Path) -> None:
    one = run(tmp_path / "one", 5, **{"ray.staleness": 2, "ray.samplers": 2})
    two = run(tmp_path / "two", 5, **{"ray.staleness": 2, "ray.samplers": 3})
    assert equal(one, two) and timeless(steps_of(one)) == timeless(steps_of(two))
    assert not equal(one, run(tmp_path / "within", 5))


def test_a_dead_worker_changes_nothing(
    crews: list[ThreadCrew], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", 5, **{"ray.staleness": 1})
    died: list[int] = []

    def die(worker: int, block: Block) -> None:
        if block.first_group == 5 and not died:
            died.append(worker)
            raise WorkerGone("killed")

    faulty = fleets.RayCrew
    monkeypatch.setattr(fleets, "RayCrew", lambda *given: _with(faulty(*given), die))
    again = run(tmp_path / "again", 5, **{"ray.staleness": 1})
    assert died and equal(whole, again)
    nothing_lost_or_repeated(again, 5)


def _with(crew: Any, before: Callable[[int, Block], None]) -> Any:
    crew.before = before
    return crew


class Interrupted(Exception):
    """The user's hand."""


def after(step: int) -> Callable[[dict[str, Any]], None]:
    def heard(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise Interrupted

    return heard


def test_a_resumed_run_draws_again_what_was_under_way_and_loses_no_prompt(
    crews: list[ThreadCrew], tmp_path: Path
) -> None:
    asked = {"ray.staleness": 2}
    with pytest.raises(Interrupted):
        run(tmp_path / "run", 8, heard=after(5), **asked)  # the last checkpoint is of step 3
    out = run(tmp_path / "run", 8, resume=True, **asked)
    nothing_lost_or_repeated(out, 8)
    assert [event["sampler/staleness"] for event in steps_of(out)] == [0, 1, 2, 0, 1, 2, 2, 2]


def test_a_run_within_the_step_resumes_bit_for_bit(crews: list[ThreadCrew], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 5)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", 5, heard=after(4))
    assert equal(whole, run(tmp_path / "run", 5, resume=True))


def test_evaluation_overtakes_what_is_drawn_ahead(crews: list[ThreadCrew], tmp_path: Path) -> None:
    often = {"evaluate.every": 1, "evaluate.prompts": 2, "evaluate.samples": 2}
    out = run(tmp_path / "run", 4, **{"ray.staleness": 2, **often})
    assert equal(out, run(tmp_path / "blind", 4, **{"ray.staleness": 2})), "and it changes nothing"
    local = run(tmp_path / "local", 1, **{**often, "rollout.sampler": "local"})
    seen = [next(e for e in read_events(f / "events.jsonl") if e["kind"] == "eval") for f in (out, local)]
    shown, usual = ({k: v for k, v in e.items() if isinstance(v, float)} for e in timeless(seen))
    # To rounding: the corrected run scores in a pass of its own, so that its update is not the other one bit for bit.
    assert shown == pytest.approx(usual, abs=1e-6), "the first step's batch is of the start weights either way"


def test_dynamic_sampling_takes_the_next_batch_of_the_window(crews: list[ThreadCrew], tmp_path: Path) -> None:
    out = run(tmp_path / "run", 3, method="dapo", **{"ray.staleness": 1, "rollout.max_tokens": 40})
    ids = [name for step in sampled(out).values() for name in step[0][::3]]
    stream = [e.id for e in stretch(load_task("digit_sum").split("train"), 0, len(ids), 0)]
    assert len(ids) > 9 and ids == stream, "more rounds than steps, every one on the prompts that follow"
    assert max(event["sampler/staleness_max"] for event in steps_of(out)) <= 1


def test_too_many_deaths_end_the_run_with_its_steps_saved(
    crews: list[ThreadCrew], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(worker: int, block: Block) -> None:
        if block.first_group >= 9:
            raise WorkerGone("killed")

    faulty = fleets.RayCrew
    monkeypatch.setattr(fleets, "RayCrew", lambda *given: _with(faulty(*given), die))
    with pytest.raises(EngineDead, match="after 2 restarts"):
        run(tmp_path / "run", 6, **{"ray.restarts": 2, "checkpoint.every": 100})
    assert [place.name for place in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]


def resolved(record: Any, **flags: Any) -> Resolved:
    return resolve("x", record, flags={"rollout.sampler": "ray", **flags})


def test_what_is_corrected() -> None:
    assert resolved(evol_rl.method()).record == evol_rl.method(), "its numbers are the trainer's own"
    for asked in ({"ray.staleness": 1}, {"ray.engine": "vllm"}, {"lora.rank": 4}):
        found = resolved(evol_rl.method(), **asked)
        assert found.record.aggregate == SamplerWeighted(inner=TokenMean(), level="token", cap=2.0)
        assert any("rollout.sampler=ray puts truncated importance sampling" in note for note in found.notes)
    stale = resolved(evol_rl.method(), **{"ray.staleness": 3, "vllm.correct": False})
    assert stale.record == evol_rl.method() and "up to 3 steps ahead" in stale.notes[0]
    assert "resumed run is not the same bit for bit" in stale.notes[0]


class Greedy:
    """A part that asks for other responses."""

    draws_more = True

    def __call__(self, rollouts: Any, verdicts: Any, run: Any) -> Any:
        return verdicts


def test_what_is_refused_and_by_which_part() -> None:
    def refused(match: str, record: Any, **flags: Any) -> None:
        asked = resolve("x", record, flags={"rollout.sampler": "ray", "vllm.correct": False, **flags})
        with pytest.raises(InputError, match=match):
            check_fleet(asked.config, asked.record)

    stale = {"ray.staleness": 1}
    refused(
        "ray.staleness is 1, but with --sampler vllm nothing", evol_rl.method(), **stale, **{"rollout.sampler": "vllm"}
    )
    refused("ray.staleness is 1, but with --sampler local", evol_rl.method(), **stale, **{"rollout.sampler": "local"})
    refused("set rollout.admit=false", evol_rl.method(), **{"rollout.admit": True})
    refused("ray.gpus=0 has samplers compute on a CPU", evol_rl.method(), device="cuda")
    prompts = type(greso.method().collect.prompts).__name__
    refused(f"{prompts} chooses prompts by what the steps before showed", greso.method(), **stale)
    draw = type(luffy.method().collect.draw).__name__
    refused(f"{draw} decides within a step what is drawn", luffy.method(), **stale)
    collect = evol_rl.method().collect
    refused(
        "Greedy draws responses of its own", evol_rl.method().replace(collect=collect.replace(pick=Greedy())), **stale
    )


def test_a_part_that_draws_in_secret_is_found_out(crews: list[ThreadCrew], tmp_path: Path) -> None:
    file = tmp_path / "secret.py"
    file.write_text(
        "from rekindle.methods import grpo\n\n\n"
        "class Secret:\n    def __call__(self, rollouts, verdicts, run):\n"
        "        run.greedy(rollouts.example[:1])\n        return verdicts\n\n\n"
        "def method():\n    base = grpo.method()\n"
        "    return base.replace(collect=base.collect.replace(shape=(Secret(),)))\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="draws prompts or responses of its own within the step"):
        run(tmp_path / "run", 3, method=f"{file}:method", **{"ray.staleness": 1, "rollout.group": 3})


def test_a_histogram_counts_batches_by_age() -> None:
    assert staleness_metrics(1, 2)["sampler/staleness/1"] == (1.0, 1.0)
    events = [
        {"sampler/staleness/0": 0.5, "sampler/staleness/1": 0.5},
        {"sampler/staleness/0": 1.0, "sampler/staleness/1": 0.0},
    ]
    assert staleness_histogram(events) == {0: 0.75, 1: 0.25}
    assert staleness_histogram([{"kind": "step", "loss": 1.0}]) == {}


def engines(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> None:
    """Workers hold a copy engine with these faults in place of vLLM."""

    def make(start: Any) -> CopyEngine:
        return CopyEngine(load_model(start.model).model, **faults)

    monkeypatch.setattr(hands, "VllmEngine", make)


@pytest.mark.parametrize("staleness", [0, 1])
def test_engines_of_their_own_are_probed_after_every_push(
    crews: list[ThreadCrew], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    engines(monkeypatch)
    asked = {"ray.engine": "vllm", "vllm.probe": 1, "ray.staleness": staleness}
    told = steps_of(run(tmp_path / "run", 3, **asked))
    assert all(event["sampler/tensors"] > 10 and event["sampler/probe_max"] < 1e-4 for event in told)
    assert told[0]["sampler/gap"] < 1e-5 and "entropy" not in told[0]


@pytest.mark.parametrize(
    ("fault", "says"), [({"deaf": True}, "other weights"), ({"heat": 1.1}, "disagree on the log-")]
)
@pytest.mark.parametrize("staleness", [0, 1])
def test_an_engine_that_draws_from_something_else_ends_the_run(
    crews: list[ThreadCrew], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, says: str, staleness: int
) -> None:
    engines(monkeypatch, **fault)
    with pytest.raises(GuardStop, match=says):
        run(tmp_path / "run", 4, **{"ray.engine": "vllm", "vllm.probe": 1, "ray.staleness": staleness})
