"""A recorded step taken again is the step that it was, bit for bit; what is not is named, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.report.travel.past import open_past
from rekindle.report.travel.replay import Replayed, replay
from tests.cli.folders import rekindle

SMALL: dict[str, Any] = {
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.max_tokens": 6,
    "descent.minibatches": 2,
    "evaluate.baseline": False,
    "checkpoint.every": 2,
}
STEPS = 4
NORM = "model.norm.weight"
METHODS: dict[str, dict[str, Any]] = {
    "evol_rl": {"rollout.votes": 8},
    "grpo": {"descent.epochs": 2},
    "reinforce_ada": {},
    "dapo": {"collect.select.max_rounds": 60},
    "remix": {},
    "ppo_clip": {},
    "luffy": {},
    "remax": {},
    "nlpo": {},
}
AGAIN = {"remax": "greedy responses sampled again", "nlpo": "sampled again: it draws under a rule"}


def recorded(method: str, out: Path, **more: Any) -> Path:
    options = {**SMALL, **METHODS.get(method, {}), **more}
    if method != "luffy":
        return train(method, task="digit_sum", steps=STEPS, out=out, options=options)
    rows = [{"prompt": f"Compute: {n}+1=", "answer": str(n + 1), "demonstration": f"{n + 1};"} for n in range(5)]
    data = out.with_suffix(".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train(method, data=data, steps=STEPS, out=out, options={**options, "rollout.max_tokens": 24})


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded("grpo", tmp_path_factory.mktemp("grpo") / "run")


@pytest.fixture
def copied(grpo: Path, tmp_path: Path) -> Path:
    return shutil.copytree(grpo, tmp_path / "run")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def replayed(run: Path, step: int) -> Replayed:
    return replay(open_past(run), step)


def edited(run: Path, step: int, column: str, row: int, value: Any) -> None:
    """Another value in one place of a step's rollouts."""
    file = run / "rollouts" / f"step-{step:06d}.parquet"
    table = pq.read_table(file)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table[column].type)), file)


def event_edited(run: Path, kind: str, step: int, name: str, value: Any) -> None:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for line in lines:
        if (line["kind"], line["step"]) == (kind, step):
            assert line[name] != value
            line[name] = value
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


FAST = ("grpo", "evol_rl", "dapo", "remix")


@pytest.mark.parametrize("method", [m if m in FAST else pytest.param(m, marks=pytest.mark.heavy) for m in METHODS])
def test_every_step_is_the_step_that_it_was_bit_for_bit(method: str, tmp_path: Path) -> None:
    run = recorded(method, tmp_path / "run")
    before = contents(run)
    # Step 1 is of the start weights, 2 and 4 have a checkpoint to compare with, 3 begins behind one.
    for step, began in ((2, 0), (STEPS, 2)):
        found = replayed(run, step)
        assert found.first is None and found.notes == [] and found.exact
        assert found.began == began and [s.step for s in found.steps] == list(range(began + 1, step + 1))
        assert found.steps[-1].apart == 0.0 and all(s.tensors >= 13 and s.metrics >= 20 for s in found.steps)
        assert all(AGAIN.get(method, "stored") in s.source and s.responses >= 8 for s in found.steps)
    assert contents(run) == before


def test_an_adapter_is_replayed_as_the_whole_model_is(tmp_path: Path) -> None:
    run = recorded("grpo", tmp_path / "run", **{"lora.rank": 4, "descent.lr": 1e-3})
    found = replayed(run, 3)
    assert found.first is None and all(step.tensors == 14 for step in found.steps)


def test_what_is_not_as_it_was_is_named(copied: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    event_edited(copied, "step", 4, "grad_norm", 1.5)
    event_edited(copied, "weights", 3, name, "0" * 16)
    first = replayed(copied, 4).first
    assert first is not None and (first.step, first.what, first.where) == (3, "weights", name)
    assert replayed(copied, 2).first is None
    edited(copied, 3, "score", 5, 7.0)
    found = replayed(copied, 4)
    assert str(found.first).startswith("step 3, scores: score of prompt 'train-") and "row 5: 7.0 and" in str(
        found.first
    )
    assert len(found.steps) == 1, "what follows a difference is of other weights"


def test_another_stored_token_gives_other_weights_and_other_prompts_are_refused(copied: Path) -> None:
    table = pq.read_table(copied / "rollouts" / "step-000001.parquet").to_pydict()
    row = table["trained"].index(True)
    edited(copied, 1, "token_ids", row, [table["token_ids"][row][0] ^ 1, *table["token_ids"][row][1:]])
    assert {one.what for one in replayed(copied, 1).steps[0].differ} >= {"metrics", "weights"}
    edited(copied, 3, "id", 0, table["id"][-1])
    first = replayed(copied, 3).first
    assert first is not None and first.what == "prompts"
    assert f"at place 0, where the step had '{table['id'][-1]}'" in first.where


def test_a_checkpoint_is_compared_to_its_last_value(copied: Path) -> None:
    place = copied / "checkpoints" / "step-000004" / "state" / "run.json"
    state = json.loads(place.read_text())
    state["memory"]["groups"] += 1
    place.write_text(json.dumps(state))
    assert str(replayed(copied, 4).first) == "step 4, checkpoint: memory groups: 17 and 16"


def test_steps_that_kept_no_tokens_are_sampled_again(tmp_path: Path) -> None:
    run = recorded("grpo", tmp_path / "run", **{"checkpoint.rollouts": 2, "checkpoint.tokens": False})
    found = replayed(run, 2)
    assert found.first is None
    reasons = ["no rollouts of it are kept", "its rollouts are kept without tokens"]
    assert [step.source for step in found.steps] == [f"sampled again: {reason}" for reason in reasons]
    edited(run, 2, "response", 3, "other")
    first = replayed(run, 2).first
    assert first is not None and first.what == "tokens" and first.where.startswith("response of prompt")


def test_what_a_replay_cannot_do_is_said_in_a_sentence(copied: Path, tmp_path: Path) -> None:
    for step in (0, 5):
        with pytest.raises(InputError, match=rf"has steps 1 to 4, and not {step}: name one of these"):
            replayed(copied, step)
    with pytest.raises(InputError, match="holds no run"):
        open_past(tmp_path)
    toml = copied / "run.toml"
    toml.write_text(toml.read_text().replace('record_hash = "', 'record_hash = "0'))
    with pytest.raises(InputError, match="method 'grpo' is no longer the record that wrote"):
        replayed(copied, 1)


def test_other_versions_and_files_are_noted(copied: Path) -> None:
    toml = copied / "run.toml"
    toml.write_text(toml.read_text().replace('transformers = "', 'transformers = "0.'))
    (note,) = replayed(copied, 1).notes
    assert note.startswith("transformers is ") and " and was 0." in note


def test_by_other_ranks_rounding_is_let_pass_and_no_more(capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    events = copied / "events.jsonl"
    events.write_text(events.read_text().replace('"threads": 1', '"threads": 1, "ranks": 2', 1))
    event_edited(copied, "weights", 2, NORM, "0" * 16)
    event_edited(copied, "step", 2, "loss", 0.125)
    place = copied / "checkpoints" / "step-000002" / "model.safetensors"
    tensors = load_file(place)
    largest = tensors[NORM].abs().max()
    for far, code in ((5e-5, 0), (5e-3, 1)):
        save_file({**tensors, NORM: tensors[NORM] + far * largest}, place, {"format": "pt"})
        ended = rekindle(capsys, "replay", copied, "--step", "2", "--ranks", "1")
        assert ended.code == code and "note: 2 ranks took these steps and 1 takes them again" in ended.out
        said = f"equal but for rounding: weights within {far:.1e}, metrics within" if not code else "step 2, checkpoint"
        assert said in ended.out
    edited(copied, 2, "score", 0, 9.0)
    assert "differs first in step 2, scores" in rekindle(capsys, "replay", copied, "--step", "2", "--ranks", "1").out
    ended = rekindle(capsys, "replay", copied, "--step", "2", "--ranks", "3")
    assert ended.code == 2 and "2 ranks took the steps" in ended.err and "--ranks is that, or 1" in ended.err


def test_the_command_prints_a_table_and_its_exit_code_tells(capsys: pytest.CaptureFixture[str], copied: Path) -> None:
    ended = rekindle(capsys, "replay", copied, "--step", "3")
    assert ended.code == 0 and ended.out.endswith("begun from the checkpoint of step 2\nequal, bit for bit\n")
    step, responses, source, metrics, tensors, checkpoint = ended.out.splitlines()[1].split()
    assert (step, responses, source, tensors, checkpoint) == ("3", "16", "stored", "13", "none") and int(metrics) >= 25
    event_edited(copied, "step", 3, "grad_norm", 1.5)
    ended = rekindle(capsys, "replay", copied, "--step", "3")
    assert ended.code == 1 and "differs first in step 3, metrics: grad_norm: 1.5 and" in ended.out
    assert "DIFFER" in ended.out.splitlines()[1]
    ended = rekindle(capsys, "replay", copied, "--step", "3", "--json")
    told = json.loads(ended.out)
    assert ended.code == 1 and not told["equal"] and told["first"]["what"] == "metrics"
    assert told["steps"][0]["source"] == "stored" and told["began"] == 2


def test_a_replay_begins_between_steps_with_a_whole_checkpoint(copied: Path) -> None:
    places = copied / "checkpoints"
    shutil.copytree(places / "step-000002", places / "step-000003-update-01")  # of a run that a signal stopped there
    assert replayed(copied, 4).began == 2
    (places / "step-000002" / "config.json").write_text("{}")
    assert replayed(copied, 4).began == 0, "a damaged one is passed over"
