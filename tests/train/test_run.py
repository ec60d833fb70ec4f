"""A run is a function of its seed, survives a kill bit for bit, and never lets a label reach a label-free update."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.loader import load_model
from rekindle.tokens.tasks import load_task
from rekindle.train.events import raw_events, read_events, timeless
from rekindle.train.retention import checkpoints
from rekindle.train.runfile import from_toml

SMALL = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.votes": 8,
    "descent.minibatches": 2,
    "evaluate.prompts": 4,
    "evaluate.samples": 4,
    "evaluate.baseline": False,
    "checkpoint.every": 5,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def start_weights(task: str) -> dict[str, torch.Tensor]:
    return dict(load_model("embedded", task_name=task).model.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(folder: Path, task: str) -> bool:
    start = start_weights(task)
    return any(not torch.equal(value, start[name]) for name, value in weights(folder).items())


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def stop_at(step: int):
    def heard(record: dict) -> None:
        if record["kind"] == "step" and record["step"] == step:
            raise Interrupted

    return heard


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("evol_rl", task="digit_sum", steps=10, out=tmp_path_factory.mktemp("whole") / "run", options=SMALL)


def test_same_seed_gives_the_same_run(whole: Path, tmp_path: Path) -> None:
    again = train("evol_rl", task="digit_sum", steps=10, out=tmp_path / "run", options=SMALL)
    assert same(weights(whole), weights(again))
    assert timeless(read_events(whole / "events.jsonl")) == timeless(read_events(again / "events.jsonl"))
    assert moved(whole, "digit_sum")
    other = train("evol_rl", task="digit_sum", steps=10, seed=1, out=tmp_path / "other", options=SMALL)
    assert not same(weights(whole), weights(other))


@pytest.mark.parametrize("last", [6, 5])
def test_an_interrupted_run_resumes_bit_for_bit(whole: Path, tmp_path: Path, last: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("evol_rl", task="digit_sum", steps=10, out=out, options=SMALL, heard=stop_at(last))
    assert not (out / "final").exists()
    train("evol_rl", task="digit_sum", steps=10, out=out, options=SMALL, resume=True)
    assert same(weights(whole), weights(out))
    steps = [r for r in timeless(read_events(out / "events.jsonl")) if r["kind"] == "step"]
    assert steps == [r for r in timeless(read_events(whole / "events.jsonl")) if r["kind"] == "step"]
    assert "resume" in [r["kind"] for r in raw_events(out / "events.jsonl")]


def test_a_run_killed_before_its_final_model_is_finished_by_resuming(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "final")  # as after a kill between the last checkpoint, at step 10 of 10, and the final model
    train("evol_rl", task="digit_sum", steps=10, out=out, options=SMALL, resume=True)
    assert same(weights(whole), weights(out))
    assert (out / "final" / "README.md").read_text() == (whole / "final" / "README.md").read_text()


def test_resuming_refuses_files_that_changed(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", ["1"] * 4)
    out = tmp_path / "run"
    options = {**SMALL, "rollout.max_tokens": 20, "checkpoint.every": 1}
    with pytest.raises(Interrupted):
        train("ttrl", data=data, steps=2, out=out, options=options, heard=stop_at(1))
    data.write_text(data.read_text().replace('"1"', '"2"'))
    with pytest.raises(InputError, match=r"rows\.jsonl has changed since the run began"):
        train("ttrl", data=data, steps=2, out=out, options=options, resume=True)


def test_training_in_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set dtype=float32"):
        train("grpo", task="digit_sum", out=tmp_path / "run", options={"dtype": "bfloat16"})


def killed(command: list[str], out: Path) -> bool:
    """Run the command and kill it once its first checkpoint is there; False where it had finished by then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not checkpoints(out / "checkpoints") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints(out / "checkpoints"), f"no checkpoint within 600 s, exit code {process.returncode}"
    return not (out / "final").exists()


def test_a_killed_process_resumes_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    sets = [f"{name}={str(value).lower()}" for name, value in SMALL.items()]
    command = [sys.executable, "-c", "from rekindle.cli.main import main; main()", "train", "evol_rl"]
    command += ["--task", "digit_sum", "--steps", "10", *(x for s in sets for x in ("--set", s))]
    # On a busy machine the kill may come after the end, which proves nothing: then again.
    tries = (tmp_path / f"run{i}" for i in range(5))
    out = next(out for out in tries if killed([*command, "--out", str(out)], out))
    train("evol_rl", task="digit_sum", steps=10, out=out, options=SMALL, resume=True)
    assert same(weights(whole), weights(out))


def write_rows(path: Path, answers: list[str | None]) -> Path:
    rows = load_task("reduce").split("train")[: len(answers)]
    records = [
        {"id": e.id, "prompt": e.prompt} | ({} if a is None else {"answer": a})
        for e, a in zip(rows, answers, strict=True)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("method", ["ttrl", "evol_rl"])
def test_labels_never_reach_the_weights(method: str, tmp_path: Path) -> None:
    truths = [e.answer for e in load_task("reduce").split("train")[:8]]
    shuffled = truths[:]
    random.Random(0).shuffle(shuffled)
    assert shuffled != truths
    options = {**SMALL, "rollout.max_tokens": 60, "descent.lr": 1e-3, "evaluate.baseline": True}
    found = {}
    some = [a if i % 2 else None for i, a in enumerate(truths)]
    for name, answers in {"true": truths, "shuffled": shuffled, "some": some, "none": [None] * 8}.items():
        data = write_rows(tmp_path / f"{name}.jsonl", answers)
        found[name] = train(method, data=data, steps=2, out=tmp_path / name, options=options)
    assert same(weights(found["true"]), weights(found["shuffled"]))
    assert same(weights(found["true"]), weights(found["none"]))
    assert same(weights(found["true"]), weights(found["some"]))
    assert moved(found["true"], "reduce"), "nothing was learned: equality would prove nothing"
    kinds = {n: {r["kind"] for r in read_events(f / "events.jsonl")} for n, f in found.items()}
    assert "baseline" in kinds["true"] and "baseline" not in kinds["none"]
    steps = {n: [r for r in read_events(f / "events.jsonl") if r["kind"] == "step"] for n, f in found.items()}
    assert "truth/label_accuracy" in steps["true"][0] and "truth/label_accuracy" not in steps["none"][0]
    assert [r["truth/pass@1"] for r in steps["true"]] != [r["truth/pass@1"] for r in steps["shuffled"]]


def test_a_method_with_labels_does_see_them(tmp_path: Path) -> None:
    truths = [e.answer for e in load_task("reduce").split("train")[:8]]
    options = {**SMALL, "rollout.max_tokens": 60, "descent.lr": 1e-3}
    runs = [
        train("grpo", data=write_rows(tmp_path / f"{n}.jsonl", a), steps=1, out=tmp_path / n, options=options)
        for n, a in {"true": truths, "shuffled": truths[1:] + truths[:1]}.items()
    ]
    assert not same(weights(runs[0]), weights(runs[1]))


BAD = """
import torch
from rekindle.methods import ttrl

def poison(advantage, batch):
    return torch.where(batch.uid[:, None] >= 64, torch.nan, advantage)  # two steps of 4 prompts x 8 votes are fine

def method():
    return ttrl.method().replace(modulate=(poison,))
"""


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "bad.py").write_text(BAD)
    options = {**SMALL, "checkpoint.every": 1}
    with pytest.raises(GuardStop, match=r"step 2, update 0: advantage is nan in 32 of 32 tokens"):
        train(f"{tmp_path}/bad.py:method", task="digit_sum", steps=4, out=out, options=options)
    kept = checkpoints(out / "checkpoints")[-1]
    assert kept.name == "step-000002" and not (out / "final").exists()
    tensors = {**load_file(kept / "model.safetensors"), **load_file(kept / "state" / "optimizer.safetensors")}
    assert all(value.isfinite().all() for value in tensors.values())
    batch = load_file(out / "bad-batch-step-000002-update-0.safetensors")
    assert batch["uid"].min() >= 64 and batch["extra.advantage"].isnan().any()


def test_methods_refuse_what_they_cannot_use(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "none.jsonl", [None] * 4)
    with pytest.raises(InputError, match="needs answers"):
        train("grpo", data=data, steps=1, out=tmp_path / "a")
    reward = tmp_path / "reward.py"
    reward.write_text("def length(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    with pytest.raises(InputError, match="would ignore --reward"):
        train("ttrl", task="digit_sum", reward=[f"{reward}:length"], steps=1, out=tmp_path / "b")


def test_dapo_stops_on_saturated_data(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def always(prompts, completions, **columns):\n    return [1.0 for _ in completions]\n")
    with pytest.raises(GuardStop, match="all solved, all unsolved or ungraded"):
        options = {**SMALL, "collect.select.max_rounds": 3}
        train("dapo", task="digit_sum", reward=[f"{reward}:always"], steps=1, out=tmp_path / "a", options=options)


STAGED = """
from rekindle.core.stages import Stages
from rekindle.methods import grpo, ttrl

def method():
    return Stages(methods=(ttrl.method(), grpo.method()), until=(0.5, 1.0))
"""


def test_stages_train_one_after_another_with_the_options_of_both(tmp_path: Path) -> None:
    (tmp_path / "staged.py").write_text(STAGED)
    out = train(f"{tmp_path}/staged.py:method", task="digit_sum", steps=4, out=tmp_path / "run", options=SMALL)
    steps = [r for r in read_events(out / "events.jsonl") if r["kind"] == "step"]
    assert ["vote/majority_share" in r for r in steps] == [True, True, False, False]
    saved = from_toml((out / "run.toml").read_text())
    assert [saved.options[f"methods.{i}.descent.lr"] for i in range(2)] == [5e-4, 5e-4], "the profile's, in both stages"
    assert moved(out, "digit_sum")


def test_a_run_says_where_its_model_cannot_be_packed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notes: list[str] = []

    def heard(record: dict) -> None:
        notes.extend([record["text"]] if record["kind"] == "note" else [])

    monkeypatch.setattr("rekindle.tokens.packed.is_plain", lambda _model: False)
    train("grpo", task="digit_sum", steps=1, out=tmp_path / "run", options=SMALL, heard=heard)
    assert any("does not attend to packed tokens" in note for note in notes)


def test_precision_goes_with_single_precision_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"precision=bf16 goes with float32 weights, and dtype is float64"):
        train("grpo", task="digit_sum", out=tmp_path / "run", options={"dtype": "float64", "precision": "bf16"})


def test_a_run_in_bf16_with_recomputed_layers_moves_its_single_precision_weights(tmp_path: Path) -> None:
    options = {**SMALL, "bf16": True, "gradient_checkpointing": True}
    out = train("grpo", task="digit_sum", steps=2, out=tmp_path / "run", options=options)
    assert moved(out, "digit_sum") and {w.dtype for w in weights(out).values()} == {torch.float32}
