"""A first signal saves the run between two updates, a second one ends it; a run so stopped goes on bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.core.ranks import Alone
from rekindle.errors import GuardStop, Stopped, StoppedByHand
from rekindle.train import start
from rekindle.train.digests import digests
from rekindle.train.events import NoLog, raw_events, read_events, timeless
from rekindle.train.halt import REPEAT, Halt
from rekindle.train.retention import checkpoints
from rekindle.train.run import Run
from rekindle.train.taking import stop

SMALL = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.votes": 4,
    "rollout.max_tokens": 24,
    "descent.minibatches": 2,
    "descent.epochs": 2,
    "descent.lr": 1e-3,
    "checkpoint.every": 2,
}
MARKS = ("resume", "stop")


def events(out: Path) -> list[dict[str, Any]]:
    return [r for r in timeless(read_events(out / "events.jsonl")) if r["kind"] not in MARKS]


def weights(out: Path) -> dict[str, Any]:
    return digests(list(load_file(out / "final" / "model.safetensors").items()), Alone())


def run(out: Path, method: str = "grpo", steps: int = 4, resume: bool = False, **more: Any) -> Path:
    return train(method, task="digit_sum", steps=steps, out=out, resume=resume, options={**SMALL, **more})


def signalled(monkeypatch: pytest.MonkeyPatch, call: int, number: signal.Signals) -> Callable[[], int]:
    """Sends a signal to this process within the update number `call` of all; gives how many updates were made."""
    plain, made = Run.descend, [0]

    def descend(self: Run, *arguments: Any) -> Any:
        made[0] += 1
        if made[0] == call:
            os.kill(os.getpid(), number)
        return plain(self, *arguments)

    monkeypatch.setattr(Run, "descend", descend)
    return lambda: made[0]


def signalled_while_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends a signal to this process once the first step's responses are there."""
    plain = Run.observe

    def observe(self: Run, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        plain(self, *arguments)

    monkeypatch.setattr(Run, "observe", observe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {m: run(tmp_path_factory.mktemp(m) / "run", m) for m in ("grpo", "remix")}


@pytest.mark.parametrize("method", ["grpo", "remix"])
@pytest.mark.parametrize("call", [2, 7, 9])
def test_a_run_stopped_inside_a_step_goes_on_bit_for_bit(
    whole: dict[str, Path], method: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "run", signalled(monkeypatch, call, signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        run(out, method)
    assert made() == call, "the update that went on was finished, and none begun"
    place = checkpoints(out / "checkpoints")[-1]
    step, inside = divmod(call, 4) if method == "grpo" else (None, None)
    if step is not None:
        assert place.name == (f"step-{step:06d}-update-{inside:02d}" if inside else f"step-{step:06d}")
    monkeypatch.undo()
    run(out, method, resume=True)
    assert weights(out) == weights(whole[method])
    assert events(out) == events(whole[method])
    names = {f.name for f in (whole[method] / "rollouts").iterdir()}
    assert {f.name for f in (out / "rollouts").iterdir()} == names


def stopped_while_it_samples(out: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    with monkeypatch.context() as once, pytest.raises(Stopped):
        signalled_while_it_samples(once)
        run(out, **more)
    assert [place.name for place in checkpoints(out / "checkpoints")] == ["step-000000-update-00"]


def test_a_run_stopped_before_its_first_update_warns_as_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"steps": 2, "guards.gap": 1e-7}
    reference, out = run(tmp_path / "whole", **how), tmp_path / "run"
    assert [(r["step"], r["numbers"]["allowed"]) for r in marks(reference, "warning") if "allowed" in r["numbers"]] == [
        (1, 1e-7)
    ]
    stopped_while_it_samples(out, monkeypatch, **how)
    run(out, resume=True, **how)
    assert events(out) == events(reference) and weights(out) == weights(reference)


def test_a_run_stopped_before_its_first_update_is_guarded_as_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"steps": 2, "guards.gap": 1e-12}
    with pytest.raises(GuardStop, match="step 0: the sampler's log-probs") as there:
        run(tmp_path / "whole", **how)
    stopped_while_it_samples(tmp_path / "run", monkeypatch, **how)
    with pytest.raises(GuardStop) as again:
        run(tmp_path / "run", resume=True, **how)
    assert str(again.value) == str(there.value) and not marks(tmp_path / "run", "step")


def test_a_stop_at_the_end_of_a_step_saves_that_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, 4, signal.SIGINT)
    with pytest.raises(StoppedByHand, match=r"stopped by SIGINT: saved in .*: all up to step 1; .*with --resume"):
        run(tmp_path / "run")
    assert [place.name for place in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000001"]
    told = [r for r in raw_events(tmp_path / "run" / "events.jsonl") if r["kind"] == "stop"]
    assert [(r["signal"], r["updates"]) for r in told] == [("SIGINT", 0)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handlers are as before"


def test_the_second_signal_ends_at_once() -> None:
    with Halt(speaks=False) as halt:
        os.kill(os.getpid(), signal.SIGINT)
        assert halt.asked == signal.SIGINT and halt.agreed(Alone()) == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)  # at once: a launcher passed on what the whole job was sent
        time.sleep(REPEAT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_run_without_a_folder_says_that_nothing_is_saved() -> None:
    bare = object.__new__(Run)
    bare.step_index = 3
    with pytest.raises(Stopped, match="nothing is saved"):
        stop(bare, None, NoLog(), lambda record: None, signal.SIGTERM)


def test_a_signal_while_the_run_loads_is_answered_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = start.make_run

    def loading(*arguments: Any) -> Run:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(start, "make_run", loading)
    with pytest.raises(Stopped, match="all up to step 0;"):
        run(tmp_path / "run")
    assert [place.name for place in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000000"]
    assert not marks(tmp_path / "run", "step")


def marks(out: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in raw_events(out / "events.jsonl") if record["kind"] == kind]


def test_what_a_checkpoint_inside_a_step_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled(monkeypatch, 1, signal.SIGTERM)
    with pytest.raises(Stopped):
        run(tmp_path / "run")
    place = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    told = json.loads((place / "state" / "run.json").read_text())
    assert told["step"] == 0 and told["opened"]["done"] == 1 and "signal" in told["opened"]["metrics"]
    assert load_file(place / "state" / "opened.safetensors")["uid"].shape == (16,)
