"""Where two runs part, with and without digests; what cannot be compared is said, and equal runs are equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rekindle.errors import InputError
from rekindle.report.travel.bisect import Bisected, bisect, both_checkpoints, checkpoints_apart
from rekindle.report.travel.checkpoints import bits
from rekindle.report.travel.compared import Difference
from tests.cli.folders import rekindle
from tests.report.planted import run

NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("grpo", tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("grpo", tmp_path_factory.mktemp("other") / "run", seed=1)


@pytest.fixture
def copied(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "copied")


def without(folder: Path, kind: str, from_step: int = 0) -> None:
    """Drop the events of a kind from a step on."""
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["kind"] != kind or line["step"] < from_step]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def changed(place: Path, name: str, value: Any) -> None:
    """Another value in the first element of a tensor of a file."""
    tensors = load_file(place)
    tensors[name].view(-1)[0] = value
    save_file(tensors, place, {"format": "pt"})


def test_a_run_equals_itself_and_what_is_shorter_is_compared_as_far_as_it_goes(first: Path, copied: Path) -> None:
    found = bisect(first, copied)
    assert found.first is None and found.configuration == {} and found.notes == [] and found.after == 6
    without(copied, "step", from_step=5)
    found = bisect(first, copied)
    assert found.first is None and found.steps == (6, 4) and found.common == 4
    without(copied, "step")
    with pytest.raises(InputError, match="has taken no step yet"):
        bisect(first, copied)


def test_another_seed_differs_from_its_first_prompt_on(first: Path, other_seed: Path) -> None:
    found = bisect(first, other_seed)
    assert found.configuration == {"seed": (0, 1)}
    assert found.first is not None and (found.first.step, found.first.what) == (1, "prompts")
    assert found.firsts["weights"].step == 1 and found.after == 0 and len(found.tensors) == 13


def test_without_digests_checkpoints_tell_between_which_steps(first: Path, copied: Path) -> None:
    without(copied, "weights")
    found = bisect(first, copied)
    assert found.first is None and found.after == 6
    assert found.notes == ["no step has digests of weights in both runs (checkpoint.digests): checkpoints are compared"]
    changed(copied / "checkpoints" / "step-000006" / "model.safetensors", NORM, 3.5)
    found = bisect(first, copied)
    assert found.first is not None and (found.first.step, found.first.where) == (6, NORM)
    assert found.tensors == [NORM] and found.after == 3 and found.at == 6
    shutil.rmtree(copied / "checkpoints")
    found = bisect(first, copied)
    assert found.first is None and found.notes[1:] == [
        "no checkpoint is of the same step in both runs: weights are not compared"
    ]


def test_what_only_a_checkpoint_holds_is_compared_where_weights_are_equal(first: Path, copied: Path) -> None:
    state = copied / "checkpoints" / "step-000003" / "state"
    changed(state / "optimizer.safetensors", f"{NORM}.exp_avg", 1.0)
    found = bisect(first, copied)
    assert found.first is not None and str(found.first) == f"step 3, checkpoint: optimizer {NORM}.exp_avg"
    assert "weights" not in found.firsts and found.after == 6


def test_rollouts_that_are_not_kept_are_told_and_metrics_still_compared(first: Path, copied: Path) -> None:
    (copied / "rollouts" / "step-000002.parquet").unlink()
    lines = (copied / "events.jsonl").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"kind": "step", "step": 2' in line)
    event = {**json.loads(lines[place]), "loss": 0.25}
    (copied / "events.jsonl").write_text("\n".join([*lines[:place], json.dumps(event), *lines[place + 1 :]]) + "\n")
    found = bisect(first, copied)
    assert found.first is not None and (found.first.step, found.first.what) == (2, "metrics")
    assert found.first.where.startswith("loss: ") and found.first.where.endswith(" and 0.25")
    assert len(found.notes) == 1 and "rollouts are not kept of every step" in found.notes[0]


def test_two_checkpoints_are_compared_element_by_element(first: Path, copied: Path) -> None:
    places = [folder / "checkpoints" / "step-000006" for folder in (first, copied)]
    assert both_checkpoints(*places) and checkpoints_apart(*places) == []
    before = load_file(places[0] / "model.safetensors")[NORM].view(-1)[0].item()
    changed(places[1] / "model.safetensors", NORM, before + 0.5)
    state = json.loads((places[1] / "state" / "run.json").read_text())
    state["memory"]["history"] = {"train-1": [0.5]}
    (places[1] / "state" / "run.json").write_text(json.dumps(state))
    (places[1] / "state" / "heads.safetensors").unlink(missing_ok=True)
    save_file({"value": torch.ones(2)}, places[1] / "state" / "heads.safetensors")
    found = {(one.part, one.name): one for one in checkpoints_apart(*places)}
    norm = found["weights", NORM]
    assert (norm.changed, norm.elements) == (1, 64) and norm.largest == pytest.approx(0.5) and norm.relative > 0.1
    assert found["heads", "value"].why == "only in the second"
    assert any(part == "memory" and name.startswith("history.") for part, name in found)
    with pytest.raises(InputError, match=r"is a checkpoint and .* is none: give two runs, or two checkpoints"):
        both_checkpoints(places[0], first)
    (places[1] / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"cannot read the checkpoint .*step-000006"):
        checkpoints_apart(*places)


def test_bits_tell_what_numbers_hide() -> None:
    assert not bits(torch.tensor([0.0])).equal(bits(torch.tensor([-0.0])))
    assert bits(torch.tensor([float("nan")])).equal(bits(torch.tensor([float("nan")])))


def test_the_command_says_it_in_words_and_in_json(
    capsys: pytest.CaptureFixture[str], first: Path, copied: Path, other_seed: Path
) -> None:
    ended = rekindle(capsys, "bisect", first, copied)
    said = "configuration, versions, threads and files read: the same\nequal in 6 steps\n"
    assert (ended.code, ended.out) == (0, said)
    ended = rekindle(capsys, "bisect", first, other_seed, "--json")
    told = json.loads(ended.out)
    assert ended.code == 1 and told["first"]["what"] == "prompts" and len(told["tensors"]) == 13
    assert told["configuration"] == {"seed": [0, 1]} and told["differences"].keys() >= {"weights", "metrics"}
    ended = rekindle(capsys, "bisect", first, other_seed)
    assert ended.code == 1 and ended.out.startswith("seed: 0 and 1\n") and "13 tensors differ (" in ended.out
    assert ended.out.splitlines()[-1].startswith("the first of all: step 1, prompts: id of prompt '")
    places = [folder / "checkpoints" / "step-000006" for folder in (first, copied)]
    assert rekindle(capsys, "bisect", *places).out == "equal, bit for bit\n"
    changed(places[1] / "model.safetensors", NORM, 9.0)
    ended = rekindle(capsys, "bisect", *places)
    assert ended.code == 1 and f"weights {NORM}: 1 of 64 elements, by up to" in ended.out
    assert json.loads(rekindle(capsys, "bisect", *places, "--json").out)["apart"][0]["name"] == NORM
    assert rekindle(capsys, "bisect", first, copied / "rollouts").code == 2


def test_of_two_kinds_in_one_step_the_cause_comes_first() -> None:
    found = Bisected({}, (5, 5), {kind: Difference(3, kind, "") for kind in ("weights", "metrics", "scores")})
    assert found.first is not None and found.first.what == "scores"
    found.firsts["weights"] = Difference(2, "weights", "")
    assert found.first.what == "weights"
