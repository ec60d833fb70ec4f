"""`train`, `eval`, `sample`, `compare` and `warm` from the command line to the files and lines they leave."""

from __future__ import annotations

import io
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import rekindle as rekindle_package
from rekindle.cli.live import Watch, line, to_beat
from rekindle.cli.panel import LivePanel, clock, fact_rows, spark
from rekindle.cli.table import compare_table, contract, spread
from rekindle.tokens.recipes import PROMPTS, RECIPES, command
from rekindle.train.compare import METRICS
from rekindle.train.events import read_events
from tests.cli.folders import TINY, Ended, rekindle, taught_folder

ASSETS = Path(rekindle_package.__file__).parent / "assets"
EVOL = ["train", "evol_rl", "--task", "digit_sum", *TINY]


def done(ended: Ended) -> Ended:
    assert ended.code == 0, ended.err
    return ended


def kinds(folder: Path) -> list[str]:
    return [record["kind"] for record in read_events(folder / "events.jsonl")]


def test_a_run_leaves_its_folder_and_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = done(rekindle(capsys, *EVOL, "--set", "checkpoint.every=1", "--out", out))
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert [text.split()[:2] for text in lines] == [
        ["start", "model"],
        ["step", "1/2"],
        ["step", "2/2"],
        ["step", "2/2"],
        ["trained", "model:"],
    ]
    for word in (
        "entropy",
        "success",
        "majority",
        "label accuracy",
        "reward accuracy",
        "score",
        "dead groups",
        "tokens/s",
    ):
        assert word in lines[1]
    assert "maj@2" in lines[0] and "the line to beat" in lines[0]
    assert lines[-1] == f"trained model: {out / 'final'}"
    held = tomllib.loads((out / "run.toml").read_text())
    assert (held["method"], held["steps"], held["rollout"]["votes"]) == ("evol_rl", 2, 4)
    assert kinds(out) == ["start", "baseline", "step", "weights", "step", "weights", "end"]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    assert pq.read_table(out / "rollouts" / "step-000002.parquet").num_rows == 2 * 4
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out / "final"), AutoTokenizer.from_pretrained(out / "final")
    ids = tokenizer("472=", return_tensors="pt").input_ids
    assert model(ids).logits.isfinite().all()
    assert "evol_rl" in (out / "final" / "README.md").read_text()


def test_samples_are_shown_but_are_no_events(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done(rekindle(capsys, *EVOL, "--out", tmp_path / "run"))
    assert "sample" not in kinds(tmp_path / "run")
    for record in read_events(tmp_path / "run" / "events.jsonl"):
        assert not any(isinstance(value, str) for value in record["time"].values())


def test_a_dry_run_tells_every_option_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sets = ["--set", "epsilon=0.1"]
    ended = done(rekindle(capsys, *EVOL, *sets, "--out", tmp_path / "run", "--dry-run"))
    assert list(tmp_path.iterdir()) == []
    rows = {tuple(text.split()) for text in ended.out.splitlines()}
    assert ("steps", "2", "flag") in rows
    assert ("rollout.votes", "4", "--set") in rows
    assert ("descent.lr", "0.0005", "profile") in rows
    assert ("terms.1.coef", "0.003", "method") in rows
    assert ("objective.low", "0.9", "--set") in rows
    assert ended.err == "rekindle: note: epsilon: read as objective.low=0.9, objective.high=1.1\n"
    found = json.loads(done(rekindle(capsys, *EVOL, *sets, "--out", tmp_path / "run", "--dry-run", "--json")).out)
    assert found["descent.lr"] == {"value": 0.0005, "from": "profile"}
    assert found["reward"] == {"value": [], "from": "default"} and found["data"]["value"] is None
    assert found["objective"] == {"value": "Clip", "from": "method"}
    assert list(tmp_path.iterdir()) == []


def test_another_architecture_and_a_data_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, data, out = tmp_path / "llama", tmp_path / "data.jsonl", tmp_path / "run"
    rows = [{"prompt": f"what is {n} and {7 - n}?", "answer": "7"} for n in range(4)]
    taught_folder(model, [row["prompt"] for row in rows], ["\\boxed{7}", "so \\boxed{7}", "\\boxed{8}"])
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--set", "rollout.max_tokens=16", "--set", "descent.lr=0.001", "--dtype", "float32"]
    args += ["--set", "rollout.votes=8", "--set", "evaluate.baseline=false"]
    args += ["--prompts", "2", "--group", "4", "--steps", "2"]
    done(rekindle(capsys, "train", "evol_rl", "--model", model, "--data", data, *args, "--out", out))
    steps = [record for record in read_events(out / "events.jsonl") if record["kind"] == "step"]
    assert len(steps) == 2
    for record in steps:
        assert record["vote/majority_share"] > 0.25 and record["groups/dead"] < 1
        assert record["success"] > 0 and record["grad_norm"] > 0 and record["truth/reward_accuracy"] > 0
    sampled = pq.read_table(out / "rollouts" / "step-000001.parquet").to_pydict()
    assert max(sampled["score"]) > 0 > min(sampled["score"]), "no signal: equal scores would prove nothing"
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(out / "final").state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(value.isfinite().all() for value in after.values())
    ended = done(rekindle(capsys, "eval", out, "--data", data, "-n", "4", "--max-tokens", "16", "--json"))
    assert {"pass@1", "pass@4", "maj@4", "entropy"} <= json.loads(ended.out).keys()


METHOD = """
from rekindle.core.objectives import Clip
from rekindle.methods import ttrl

def mine():
    return ttrl.method().replace(objective=Clip(low=0.9, high=1.5, dual=None))
"""
REWARD = """
def even(prompts, completions, **columns):
    return [float(text[-1:] in set("02468")) for text in completions]
"""


def test_a_method_and_a_reward_of_the_users_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(METHOD + REWARD)
    done(rekindle(capsys, "train", f"{file}:mine", "--task", "digit_sum", *TINY, "--out", out))
    assert kinds(out)[-1] == "end"
    held = tomllib.loads((out / "run.toml").read_text())
    assert held["run"]["options"]["objective.high"] == 1.5
    small = ["--prompts", "2", "--group", "4", "--steps", "1", "--task", "digit_sum"]
    done(rekindle(capsys, "train", "grpo", *small, "--reward", f"{file}:even=2", "--out", tmp_path / "reward"))
    table = pq.read_table(tmp_path / "reward" / "rollouts" / "step-000001.parquet").to_pydict()
    finished = [
        (text, score)
        for text, score, end in zip(table["response"], table["score"], table["finish"], strict=True)
        if end != "length"
    ]
    assert finished and all(score == 2.0 * (text[-1:] in set("02468")) for text, score in finished)


STOPS = """
from dataclasses import dataclass

from rekindle.methods import grpo

CALLS = []

@dataclass(frozen=True, kw_only=True)
class Stop:
    def __call__(self, advantage, batch):
        CALLS.append(1)
        if len(CALLS) == 3:
            raise KeyboardInterrupt
        return advantage

def method():
    return grpo.method().replace(modulate=(Stop(),))
"""


def test_an_interrupt_leaves_a_folder_that_resumes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = tmp_path / "stops.py", tmp_path / "run"
    file.write_text(STOPS)
    args = ["train", f"{file}:method", "--task", "digit_sum", "--prompts", "2", "--group", "4", "--steps", "4"]
    args += ["--set", "checkpoint.every=2", "--out", str(out)]
    ended = rekindle(capsys, *args)
    assert ended.code == 130
    assert "--resume" in ended.err and str(out) in ended.err and ended.err.count("\n") == 1
    assert not (out / "final").exists()
    again = done(rekindle(capsys, *args, "--resume"))
    assert again.out.startswith("resumed after step 2\nstep 3/4")
    assert [r["step"] for r in read_events(out / "events.jsonl") if r["kind"] == "step"] == [1, 2, 3, 4]


def test_eval_prints_a_table_or_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "embedded", "--task", "digit_sum", "-n", "4", "-k", "1", "-k", "4", "--prompts", "5"]
    lines = done(rekindle(capsys, *args)).out.splitlines()
    assert lines[0].split() == ["metric", "value", "standard", "error"]
    assert lines[-1] == "5 prompts, 4 samples each"
    assert lines[-2].startswith("invalid_right: ") and "prompts that have a right answer" in lines[-2]
    printed = {text.split()[0]: float(text.split()[1]) for text in lines[1:-2]}
    found = json.loads(done(rekindle(capsys, *args, "--json")).out)
    assert {"pass@1", "pass@4", "maj@4", "avg@4", "entropy", "distinct"} <= found.keys()
    assert printed == {name: pytest.approx(value, abs=5e-5) for name, value in found.items()}
    assert found["pass@1"] == pytest.approx(found["avg@4"]) and found["pass@1"] <= found["pass@4"]
    other = json.loads(done(rekindle(capsys, *args, "--json", "--split", "ood", "--seed", "3")).out)
    assert other != found


def test_sample_prints_finish_and_log_probability(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["sample", "embedded", "472=", "-n", "3", "--task", "digit_sum", "--seed", "1"]
    ended = done(rekindle(capsys, *args))
    heads = [text for text in ended.out.splitlines() if text.startswith("[")]
    assert [head.split()[0] for head in heads] == ["[1]", "[2]", "[3]"]
    for head in heads:
        assert head.split()[1].rstrip(",") in ("eos", "length")
        assert float(head.split()[-1]) < 0
    assert done(rekindle(capsys, *args)).out == ended.out


def test_compare_prints_the_contract_and_resumes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "compare"
    args = ["compare", "ttrl", "evol-rl", "--task", "digit_sum", "--seeds", "1", "--steps", "2", "--prompts", "2"]
    args += ["--samples", "16", "--set", "rollout.prompts=2", "--set", "evaluate.baseline=false", "--out", str(out)]
    ended = done(rekindle(capsys, *args, "--json"))
    found = json.loads(ended.out)
    assert found.keys() == {"base", "methods"} and list(found["methods"]) == ["ttrl", "evol_rl"]
    assert list(found["base"]) == list(METRICS)
    assert all(isinstance(value, float) for value in found["base"].values())
    for values in found["methods"].values():
        assert list(values) == list(METRICS) and all(len(v) == 1 for v in values.values())
    assert "ttrl-seed0: training" in ended.err and "evol_rl-seed0: done" in ended.err
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.parent != out}
    again = done(rekindle(capsys, *args))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "training" not in again.out and again.out.count("done before") == 3
    rows = {text.split()[0]: text.split()[1:] for text in again.out.splitlines()[-4:-1]}
    assert rows.keys() == {"base", "ttrl", "evol_rl"}
    assert float(rows["ttrl"][0]) == pytest.approx(found["methods"]["ttrl"]["pass@1"][0], abs=5e-4)
    assert again.out.splitlines()[-1].endswith("seconds in all")
    more = rekindle(capsys, *args, "--steps", "3")
    assert more.code == 2 and "other steps" in more.err


def test_warm_trains_a_model_and_tells_its_accuracy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "model"
    sizes = ["--steps", "10", "--batch", "8", "--hidden", "16", "--layers", "1", "--heads", "1", "--kv-heads", "1"]
    ended = done(rekindle(capsys, "warm", "--task", "digit_sum", "--out", out, *sizes, "--prompts", "4", "--seed", "5"))
    assert ended.out.splitlines()[0].startswith("step 1/10  loss ")
    assert [text.split()[0] for text in ended.out.splitlines()[-3:]][:2] == ["heldout/all", "ood/all"]
    report = json.loads((out / "warm.json").read_text())
    assert (report["recipe"]["seed"], report["recipe"]["hidden"], report["recipe"]["lr"]) == (
        5,
        16,
        RECIPES["digit_sum"].lr,
    )
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 16
    words = report["command"].split()
    assert words[1:6] == ["warm", "--task", "digit_sum", "--out", "DIR"] and "--lr" not in words
    again = [str(tmp_path / "again") if word == "DIR" else word for word in words[1:]]
    said = done(rekindle(capsys, *again, "--json"))
    other = json.loads(said.out)
    assert other["command"] == report["command"] and other["accuracy"] == report["accuracy"]
    assert said.err.startswith("step 1/10  loss ")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_the_command_of_a_shipped_model_is_its_own() -> None:
    for task, recipe in RECIPES.items():
        shipped = json.loads((ASSETS / task / "warm.json").read_text())
        assert command(task, recipe, PROMPTS) == shipped["command"]
    changed = replace(RECIPES["reduce"], lr=1e-3, kv_heads=1)
    assert command("reduce", changed, 5).endswith("--steps 1500 --seed 0 --lr 0.001 --kv-heads 1 --prompts 5")


BASELINE = {"kind": "baseline", "step": 0, "start/pass@1": 0.4, "start/maj@16": 0.6, "start/maj@32": 0.7}
TIME = {"seconds": 2.0, "sample": 1.0, "update": 0.5, "tokens_per_s": 1234.4}


def step(number: int, entropy: float) -> dict:
    values = {"entropy": entropy, "success": 0.5, "score": 0.25, "groups/dead": 0.125, "ways/A": 0.75, "ways/B": 0.25}
    votes = {"vote/majority_share": 0.6, "vote/entropy": 0.9, "truth/label_accuracy": 0.8}
    truth = {"truth/reward_accuracy": 0.7, "truth/pass@1": 0.45}
    return {"kind": "step", "step": number, **values, **votes, **truth, "time": TIME}


def test_plain_lines() -> None:
    assert line(step(3, 0.1), 80) == (
        "step  3/80  entropy 0.100  success 0.500  majority 0.600  label accuracy 0.800  reward accuracy 0.700  "
        "score 0.250  dead groups 0.125  1234 tokens/s  2.0 s"
    )
    assert line(BASELINE, 80) == "start model  pass@1 0.400  maj@32 0.700 (the line to beat)"
    assert line({"kind": "note", "step": 0, "text": "no checkpoint"}, 80) == "note: no checkpoint"
    assert line({"kind": "sample", "step": 1, "prompt": "a", "response": "b", "success": True}, 80) is None
    assert to_beat({"start/pass@1": 0.4}) is None


def test_the_panel_shows_what_the_records_tell() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    watch = Watch("evol_rl on reduce", 10)
    sample = {"kind": "sample", "step": 3, "prompt": "5*9-2=", "response": "45-2 \\boxed{43}", "success": True}
    with LivePanel(watch, console) as view:
        for record in (BASELINE, step(1, 0.4), step(2, 0.2), step(3, 0.1), sample):
            view(record)
        view({"kind": "note", "step": 3, "text": "a note"})
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "note: a note" in shown
    last = shown[shown.rindex("evol_rl on reduce") :]
    for text in ("3/10", "2.0 s a step", "14 s left", "0.100  █▅▃", "label accuracy 0.800", "reward accuracy 0.700"):
        assert text in last
    for text in (
        "maj@32 of the start model 0.700",
        "A 0.75  B 0.25",
        "1234 tokens/s",
        "5*9-2=",
        "\\boxed{43}",
        "success",
    ):
        assert text in last
    assert fact_rows(Watch("x", 3)) == [("first step", "under way")]


def test_small_parts_of_the_display() -> None:
    assert [clock(s) for s in (0.4, 59.4, 61.0, 3599.0, 7260.0)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "2 h 01 min",
    ]
    assert spark([0.0, 0.5, 1.0]) == "▁▅█"
    assert spark([]) == "" and spark([0.0, 0.0]) == "▁▁"
    assert spread([0.5], 2) == "0.500"
    assert spread([0.4, 0.6], 2) == "0.50±.14"
    assert spread([None, 0.4, 0.6], 2) == "0.50±.14" and spread([None], 2) == "-"
    results = {
        "base": {"pass@1": 0.25, "pass@16": 0.5, "other": 1.0},
        "methods": {"ttrl": {"pass@1": [0.5, 0.7], "pass@16": [0.6, 0.8], "other": [1.0, 1.0]}},
        "seconds": {"base": [3.0], "ttrl": [10.0, 12.0]},
    }
    headings, rows = compare_table(results)
    assert headings[:3] == ["", "pass@1", "pass@16"] and headings[-1] == "seconds"
    assert rows[0][:4] == ["base", "0.250", "0.500", "-"] and rows[0][-1] == "3"
    assert rows[1][:3] == ["ttrl", "0.60±.14", "0.70±.14"] and rows[1][-1] == "11"
    assert contract(results, METRICS) == {
        "base": {"pass@1": 0.25, "pass@16": 0.5},
        "methods": {"ttrl": {"pass@1": [0.5, 0.7], "pass@16": [0.6, 0.8]}},
    }
