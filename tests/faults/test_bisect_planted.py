"""Two runs that differ in one planted thing: bisect names that thing, its step and its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from rekindle.report.travel.bisect import Bisected, bisect
from tests.cli.folders import rekindle
from tests.report.planted import PLANT, data, run, written

UP = "model.layers.0.mlp.up_proj.weight"
Fault = Callable[..., None]
Two = Callable[..., Bisected]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    """Trains a method of the planted file twice, the second time with its fault at `step`; what bisect says of both."""

    def made(method: str, step: int, steps: int = 4, reward: bool = False, **more: Any) -> Bisected:
        runs = []
        for name, value in (("a", "none"), ("b", str(step))):
            (tmp_path / name).mkdir()
            file = written(tmp_path / name)  # a module of its own, with its own count of calls
            monkeypatch.setenv(PLANT, value)
            rewards = (f"{file}:even",) if reward else ()
            runs.append(run(f"{file}:{method}", tmp_path / name / "run", steps, reward=rewards, **more))
        return bisect(*runs)

    return made


def test_one_unit_in_the_last_place_of_one_element(
    two: Two, fault: Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = two("nudged", 3, checkpoint__every=1, checkpoint__keep=9)
    assert found.firsts["weights"].step == 3 and found.tensors == [UP] and found.after == 2
    assert found.first == found.firsts["weights"], "nothing differed before it"
    only = [one for one in found.apart if one.part == "weights"]
    assert found.at == 3 and found.apart == only and len(only) == 1
    assert (only[0].name, only[0].changed, only[0].elements) == (UP, 1, 12288)
    files = [tmp_path / name / "run" / "checkpoints" / "step-000003" / "model.safetensors" for name in "ab"]
    gap = (load_file(files[0])[UP] - load_file(files[1])[UP]).abs()
    assert gap.count_nonzero() == 1 and gap.max().item() == only[0].largest < 1e-7
    ended = rekindle(capsys, "bisect", tmp_path / "a" / "run", tmp_path / "b" / "run")
    assert ended.code == 1 and f"1 tensor differs ({UP}) after that step, none up to step 2" in ended.out
    fault(
        "time travel",
        "one float32 element of one of 13 tensors is set to the next number above it after step 3 of one of two runs",
        "bisect names step 3, that tensor and 1 of 12288 elements; every step before is equal",
        f"the first of all: {found.first}; {only[0]}",
    )


def test_a_temperature_of_one_step(two: Two, fault: Fault) -> None:
    found = two("warmer", 3, guards__gap=10.0)  # or the run itself would stop: its log-probs are of two temperatures
    first = found.first
    assert first is not None and (first.step, first.what) == (3, "tokens")
    assert "token_ids of prompt 'train-" in first.where and "row " in first.where and "position " in first.where
    assert "prompts" not in found.firsts and found.firsts["weights"].step == 3 and found.after == 2
    assert all(found.firsts[kind].step == 3 for kind in ("log-probs", "metrics", "weights"))
    fault(
        "time travel",
        "step 3 of one of two runs is drawn at temperature 1.4 in the place of 1, its own guard raised",
        "bisect names tokens of step 3 first: prompt, row and position; prompts and all before are equal",
        str(first),
    )


def test_a_reward_of_one_response(two: Two, fault: Fault, tmp_path: Path) -> None:
    found = two("plain", 2, reward=True)
    first = found.first
    assert first is not None and (first.step, first.what) == (2, "scores") and "row 3: " in first.where
    rows = pq.read_table(tmp_path / "a" / "run" / "rollouts" / "step-000002.parquet").to_pydict()
    assert f"score of prompt '{rows['id'][3]}'" in first.where
    assert not {"prompts", "tokens", "log-probs"} & {k for k, one in found.firsts.items() if one.step == 2}
    assert found.firsts["weights"].step == 2
    fault(
        "time travel",
        "the reward function gives the fourth response of step 2 half a point more in one of two runs",
        "bisect names the score of that row of step 2 first; tokens and log-probs of that step are equal",
        str(first),
    )


def test_a_prompt_of_the_data(fault: Fault, tmp_path: Path) -> None:
    first_run = run("grpo", tmp_path / "a", 3, data=data(tmp_path))
    second = run("grpo", tmp_path / "b", 3, data=data(tmp_path, last="7+2="))
    found = bisect(first_run, second)
    first = found.first
    rows = [pq.read_table(first_run / "rollouts" / f"step-00000{n}.parquet").to_pydict()["id"] for n in (1, 2, 3)]
    drawn = next(step for step, ids in enumerate(rows, start=1) if "sum-8" in ids)
    assert first is not None and (first.step, first.what) == (drawn, "prompts")
    assert first.where == f"prompt of prompt 'sum-8', row {rows[drawn - 1].index('sum-8')}: '8+1=' and '7+2='"
    assert list(found.configuration) == [f"contents of {tmp_path / 'sums.jsonl'}"]
    fault(
        "time travel",
        "the text of one of eight prompts differs in the data file of one of two runs",
        "bisect names that prompt at the step that draws it first, and the file whose contents differ",
        str(first),
    )
