"""A search by several real processes: each tries its share of the candidates, and the path is that of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rekindle.api import train
from rekindle.core.evolution import MEMORY
from rekindle.train.events import read_events, timeless
from rekindle.train.retention import checkpoints
from tests.methods.resumed import assert_alike, memory
from tests.ranks.test_runs import finished, forget_last, started, tokens
from tests.train.searched import SMALL, given, words

STEPS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = given(tmp_path_factory.mktemp("given"))
    train("essa", steps=STEPS, out=found / "alone", options=SMALL, **words(found))
    torch.set_num_threads(threads)
    return found


def command(place: Path, out: Path, *more: str) -> list[str]:
    said = words(place)
    sets = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    told = ["train", "essa", "--model", said["model"], "--data", said["data"], "--reward", said["reward"][0]]
    return [*told, "--steps", str(STEPS), *sets, "--out", str(out), *more]


def test_two_ranks_walk_the_path_of_one_and_one_goes_on(place: Path, tmp_path: Path) -> None:
    alone, out = place / "alone", tmp_path / "run"
    code, _, err = finished(started(command(place, out, "--ranks", "2")))
    assert code == 0, err
    assert_alike(alone, out, STEPS)
    assert memory(out, STEPS)[MEMORY]["fitness"] == memory(alone, STEPS)[MEMORY]["fitness"]
    for step in range(1, STEPS + 1):
        assert tokens(out, step)["response"] == tokens(alone, step)["response"]
    said = [[e for e in timeless(read_events(f / "events.jsonl")) if e["kind"] == "step"] for f in (alone, out)]
    for ours, theirs in zip(*said, strict=True):
        same = ("fitness", "fitness/best", "search/moved", "search/spread", "responses", "signal", "score")
        assert [ours[name] for name in same] == [theirs[name] for name in same] and ours["responses"] == 18.0
    forget_last(out)
    assert len(checkpoints(out / "checkpoints")) == STEPS - 1
    code, _, err = finished(started(command(place, out, "--resume")))
    assert code == 0, err
    assert_alike(alone, out, STEPS)


@pytest.mark.heavy
def test_more_ranks_than_candidates(place: Path, tmp_path: Path) -> None:
    code, _, err = finished(started(command(place, tmp_path / "run", "--ranks", "6")))
    assert code == 0, err
    assert_alike(place / "alone", tmp_path / "run", STEPS)
