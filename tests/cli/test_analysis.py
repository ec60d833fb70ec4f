"""`forecast`, `subnet`, `pick-examples` and `train --one-shot` from the command line, on stored and small runs."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from rekindle.report.examples import read_history
from rekindle.train.retention import checkpoints
from tests.cli.folders import Ended, rekindle

STORED = Path(__file__).parents[2] / "docs" / "results" / "grpo-seed0"
GRPO = ["train", "grpo", "--task", "digit_sum", "--prompts", "3", "--group", "4", "--steps", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rekindle.api import train

    small = {"rollout.prompts": 3, "rollout.group": 4, "checkpoint.every": 1, "descent.lr": 0.01}
    return train("grpo", task="digit_sum", steps=3, out=tmp_path_factory.mktemp("run") / "run", options=small)


def done(ended: Ended) -> Ended:
    assert ended.code == 0, ended.err
    return ended


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2 and ended.out == "" and ended.err.count("\n") == 1, ended.err
    assert all(word in ended.err for word in words), ended.err


def test_the_stored_run_is_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    ended = done(rekindle(capsys, "forecast", STORED, "--first", "0.5"))
    lines = ended.out.splitlines()
    assert lines[0] == "R = -a e^H + b on steps 1 to 60; R: training success"
    (ceiling,) = (line.split() for line in lines if line.startswith("ceiling"))
    found = json.loads(done(rekindle(capsys, "forecast", STORED, "--first", "0.5", "--json")).out)
    assert float(ceiling[4]) == pytest.approx(found["ceiling"]["value"], abs=5e-5)
    assert found["ceiling"]["low"] < found["ceiling"]["value"] < found["ceiling"]["high"]
    assert found["rest"] == [61, 120] and [w["first"] for w in found["windows"]] == [61, 73, 85, 97, 109]
    assert found["notes"] == [] and "note:" not in ended.out, "plain GRPO does not act on entropy"
    assert found["rmse"]["entropy"] < found["rmse"]["flat_entropy"] and found["rmse"]["score"] < 0.12
    assert "stops no run" in lines[-1]
    page = (STORED.parent / "forecast_grpo.md").read_text()
    assert ended.out.rstrip() in page, "the page is stale: python scripts/forecast_page.py"


def test_a_run_so_far_needs_no_rest(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(done(rekindle(capsys, "forecast", STORED / "events.jsonl", "--json")).out)
    assert found["steps"] == [1, 120] and "rmse" not in found
    assert 0.7 < found["ceiling"]["value"] < 1 and 60 < found["spent"]["value"] < 110


def test_a_step_that_is_not_reached_is_null(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    rows = [{"kind": "step", "step": n, "entropy": 0.5 + 1 / n, "success": 0.4 - 0.1 / n} for n in range(1, 30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(done(rekindle(capsys, "forecast", file, "--json")).out)
    assert found["spent"] == {"value": None, "low": None, "high": None}
    assert "run.toml" in found["notes"][0]
    assert "not reached" in done(rekindle(capsys, "forecast", tmp_path)).out


def test_what_cannot_be_forecast(capsys: pytest.CaptureFixture[str], tmp_path: Path, run: Path) -> None:
    refused(rekindle(capsys, "forecast", tmp_path), "the events of a run at", "run folder")
    refused(rekindle(capsys, "forecast", run), "3 steps to fit, at least 8")
    refused(rekindle(capsys, "forecast", STORED, "--first", "1.5"), "--first 1.5", "0.5")


def test_the_update_of_a_run(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    found = json.loads(done(rekindle(capsys, "subnet", "embedded", run, "--json")).out)
    assert found["skipped"] == {} and found["tensors"] > 10
    assert found["entries"] == sum(t.numel() for t in load_file(run / "final" / "model.safetensors").values())
    (source,) = found["runs"]
    assert source["lr"] == 0.01 and source["steps"] == 3 and source["lr_times_updates"] == 0.01 * source["updates"]
    fp32, bf16 = found["lenses"]["fp32"], found["lenses"]["bf16"]
    assert fp32["sparsity"][0] < 0.5 and 0 < fp32["rank"]["share"] <= 1 and fp32["largest"] > 0.005
    assert bf16["sparsity"][0] >= fp32["sparsity"][0] and fp32["overlap"] == {}
    assert {"q", "gate", "norm", "embed"} <= fp32["kinds"].keys()
    assert any("never compare" in note for note in found["notes"])


def test_the_overlap_with_a_checkpoint(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    early = checkpoints(run / "checkpoints")[0]
    ended = done(rekindle(capsys, "subnet", "embedded", run, "--other", early, "--no-rank", "--atol", "0.001"))
    assert "stable rank" not in ended.out and "Jaccard" in ended.out and "change above 0.001" in ended.out
    assert "cannot be compared" in ended.out, "the checkpoint has had fewer updates"
    assert "unchanged within 0.001, by layer" in ended.out


def test_what_has_no_update(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(load_file(run / "final" / "model.safetensors"), adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    refused(rekindle(capsys, "subnet", run / "final", adapter), "adapter (LoRA)", "merge it first")
    refused(rekindle(capsys, "subnet", tmp_path / "nowhere", run), "is no folder")
    refused(rekindle(capsys, "subnet", "embedded", adapter), "'embedded'", "folder")


def test_examples_of_a_run(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    found = json.loads(done(rekindle(capsys, "pick-examples", run, "--top", "4", "--json")).out)
    history = read_history(run).history
    assert found["prompts"] == len(history) and len(found["ranked"]) == min(4, len(history))
    scores = [row["variance"] for row in found["ranked"]]
    assert scores == sorted(scores, reverse=True) and found["notes"] == []
    assert sum(map(len, history.values())) == 9, "three steps of three prompts"
    lines = done(rekindle(capsys, "pick-examples", run)).out.splitlines()
    assert lines[0].split() == ["prompt", "deviation", "variance", "mean", "visits"]
    assert "never varied" in lines[-1] and "arbitrary" in lines[-1]


def test_checkpoint_and_rollouts_tell_the_same_history(run: Path, tmp_path: Path) -> None:
    (tmp_path / "rollouts").symlink_to(run / "rollouts")
    kept, counted = read_history(run), read_history(tmp_path)
    assert kept.source == "the checkpoint step-000003" and counted.source == "the rollouts of 3 steps"
    assert kept.history == counted.history


def test_one_shot_trains_on_copies_of_one_prompt(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    name = next(iter(read_history(run).history))
    done(rekindle(capsys, *GRPO, "--one-shot", name, "--out", out))
    for step in (1, 2):
        table = pq.read_table(out / "rollouts" / f"step-{step:06d}.parquet").to_pydict()
        assert set(table["id"]) == {name} and len(table["id"]) == 12
        groups = table["group"]
        assert set(groups) == set(range(3 * step - 3, 3 * step)) and all(groups.count(g) == 4 for g in groups)
        texts = {g: tuple(t for t, h in zip(table["response"], groups, strict=True) if h == g) for g in groups}
        assert len(set(texts.values())) == 3, "each copy has samples of its own"
    held = read_history(out).history
    assert list(held) == [name] and len(held[name]) == 6
    assert "is finished" in done(rekindle(capsys, *GRPO, "--out", out, "--resume")).out, "run.toml knows the example"
    other = "train-101" if name != "train-101" else "train-102"
    refused(rekindle(capsys, *GRPO, "--one-shot", other, "--out", out, "--resume"), "one_shot", name, other)


def test_one_shot_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(
        rekindle(capsys, *GRPO, "--one-shot", "train-1000", "--out", tmp_path / "a"), "'train-1000'", "did you mean"
    )
    refused(rekindle(capsys, *GRPO, "--one-shot", "?", "--out", tmp_path / "a"), "'?'", "ids are such as")
    dapo = ["train", "dapo", *GRPO[2:]]
    refused(
        rekindle(capsys, *dapo, "--one-shot", "train-100", "--out", tmp_path / "a"), "MixedGroups", "no other prompt"
    )
    assert not (tmp_path / "a").exists()
