"""What TRL leaves on the disk, read from small files made here: with the recorder's layout, and with TRL's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rekindle.errors import InputError
from rekindle.interop.trl.dumps import read_dump
from rekindle.interop.trl.rows import prompt_name
from rekindle.train.events import EventLog

CHAT = [[{"role": "user", "content": text}] for text in ("one?", "one?", "two?", "two?")]
SAID = [[{"role": "assistant", "content": text}] for text in "abcd"]


def completions(folder: Path, step: int, **columns: Any) -> Path:
    """A file as TRL writes it."""
    table = {
        "step": [step] * 4,
        "prompt": ["one?", "one?", "two?", "two?"],
        "completion": list("abcd"),
        "right": [1.0, 0.0, 1.0, None],
        "short": [0.5, 0.0, -1.0, None],
        "seen": ["A", "B", "C", "D"],
        "advantage": [0.7, -0.7, 0.7, -0.7],
        **columns,
    }
    place = folder / "completions" / f"completions_{step:05d}.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values for name, values in table.items() if values is not None}), place)
    return place


def history(*lines: dict[str, Any]) -> dict[str, Any]:
    own = {"rewards/right/mean": 0.5, "rewards/short/mean": 0.1, "loss": 0.1, "kl": 0.01, "clip_ratio/low_mean": 0.2}
    return {"global_step": 2, "max_steps": 3, "best_metric": None, "log_history": [{**own, **line} for line in lines]}


def state(folder: Path, held: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(held))


def test_what_is_no_finite_number_is_left_out_as_of_verls_logs(tmp_path: Path) -> None:
    strange = {"entropy": math.nan, "grad_norm": math.inf, "trained": True, "reward": 10**400}
    state(tmp_path, history({"step": 1, "lr": 0.5, **strange}))
    assert read_dump(tmp_path).steps == [
        {
            "step": 1,
            "loss": 0.1,
            "kl_ref": 0.01,
            "clip_low": 0.2,
            "trl/lr": 0.5,
            "trl/rewards/right/mean": 0.5,
            "trl/rewards/short/mean": 0.1,
        }
    ]


def test_completions_and_the_log_of_the_newest_checkpoint(tmp_path: Path) -> None:
    completions(tmp_path, 1)
    completions(tmp_path, 2)
    state(tmp_path / "checkpoint-9", history({"step": 1, "loss": 9.0}))
    state(tmp_path / "checkpoint-10", history({"step": 1, "reward": 0.5}, {"step": 2, "entropy": 1.5}))
    found = read_dump(tmp_path)
    assert found.steps[0] == {
        "step": 1,
        "loss": 0.1,
        "kl_ref": 0.01,
        "clip_low": 0.2,
        "score": 0.5,
        "trl/rewards/right/mean": 0.5,
        "trl/rewards/short/mean": 0.1,
    }
    assert [step["step"] for step in found.steps] == [1, 2] and found.steps[1]["entropy"] == 1.5
    rows = found.tables[1].to_pydict()
    assert rows["id"] == [prompt_name("one?")] * 2 + [prompt_name("two?")] * 2
    assert rows["response"] == list("abcd") and rows["group"] == [0, 0, 1, 1]
    assert rows["score"] == [1.5, 0.0, 0.0, 0.0] and rows["success"] == [True, False, False, False]
    assert rows["graded"] == [True, True, True, False]
    assert rows["reward/short"][:3] == [0.5, 0.0, -1.0] and rows["reward/seen"] == list("ABCD")
    assert rows["advantage"] == [0.7, -0.7, 0.7, -0.7]
    assert found.tables[2].to_pydict()["uid"] == [4, 5, 6, 7] and found.tables[2].to_pydict()["group"] == [2, 2, 3, 3]
    assert found.config == {"trainer": "trl", "global_step": 2, "max_steps": 3}


def test_weighted_rewards_give_no_score_and_say_so(tmp_path: Path) -> None:
    completions(tmp_path, 1)
    state(tmp_path, history({"step": 1, "reward": 0.7}))
    found = read_dump(tmp_path)
    assert not {"score", "success"} & set(found.tables[1].column_names)
    assert found.config["score"] == "left out: the rewards add up to 0.5 a row, and TRL logged 0.7 (weights?)"
    assert "reward/right" in found.tables[1].column_names


def test_completions_alone_have_no_score_for_nobody_says_which_columns_are_rewards(tmp_path: Path) -> None:
    completions(tmp_path, 3)
    found = read_dump(tmp_path)
    assert found.steps == [] and sorted(found.tables) == [3]
    assert "score" not in found.tables[3].column_names and "no trainer_state.json" in found.config["score"]


def test_the_log_alone_is_a_run(tmp_path: Path) -> None:
    state(tmp_path, history({"step": 1}, {"step": 2}, {"step": 2, "loss": 0.3}))
    found = read_dump(tmp_path)
    assert found.tables == {} and [step["loss"] for step in found.steps] == [0.1, 0.3], "the last line of a step"


def test_lines_of_evaluations_and_of_the_end_are_no_steps(tmp_path: Path) -> None:
    held = history({"step": 1})
    held["log_history"] += [{"step": 1, "eval_loss": 0.2}, {"step": 1, "train_runtime": 3.0}]
    state(tmp_path, held)
    assert len(read_dump(tmp_path).steps) == 1


def test_conversations_are_read_as_text(tmp_path: Path) -> None:
    completions(tmp_path, 1, prompt=CHAT, completion=SAID)
    rows = read_dump(tmp_path).tables[1].to_pydict()
    assert rows["prompt"] == ["one?", "one?", "two?", "two?"] and rows["response"] == list("abcd")


def recorded(folder: Path) -> None:
    with EventLog(folder / "events.jsonl") as log:
        log.write("start", 0, {"trainer": "trl", "model": "m"})
        log.write("step", 1, {"entropy": 1.0, "clip_low": 0.0})
        log.write("step", 2, {"entropy": 0.5})
        log.resume(1)
        log.write("step", 2, {"entropy": 0.4, "note": "text"})
    (folder / "rollouts").mkdir()
    for step in (1, 2, 3):
        pq.write_table(pa.table({"uid": [step], "token_logp": [[-0.5]]}), folder / f"rollouts/step-{step:06d}.parquet")


def test_a_recorders_folder_keeps_what_a_resume_left(tmp_path: Path) -> None:
    recorded(tmp_path)
    found = read_dump(tmp_path)
    assert found.steps == [{"step": 1, "entropy": 1.0, "clip_low": 0.0}, {"step": 2, "entropy": 0.4}]
    assert sorted(found.tables) == [1, 2], "a table of a step that the log does not have was cut off"
    assert found.tables[2].to_pylist() == [{"uid": 2, "token_logp": [-0.5]}]
    assert found.config == {"trainer": "trl", "model": "m"}


def test_a_folder_of_neither_kind_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_dump(tmp_path / "nowhere")
    assert all(
        name in str(caught.value) for name in ("nowhere", "events.jsonl", "completions/*.parquet", "checkpoint-N")
    )


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("trainer_state.json", "{", "trainer_state.json is no JSON"),
        ("trainer_state.json", "[]", "no list 'log_history'"),
        ("trainer_state.json", '{"log_history": [{}, {"step": "x"}]}', r"state.json, log_history\[1\]: 'x' is no step"),
        ("trainer_state.json", '{"log_history": [{"step": 1.5}]}', r"log_history\[0\]: 1.5 is no step: restore"),
        ("trainer_state.json", '{"log_history": [{"step": NaN}]}', r"log_history\[0\]: nan is no step"),
        ("trainer_state.json", '{"log_history": [7]}', r"log_history\[0\]: 7 is no step"),
        ("trainer_state.json", '{"log_history": [{"step": null}]}', r"log_history\[0\]: None is no step"),
        ("completions/completions_00001.parquet", "junk", "cannot read the rollouts"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    with pytest.raises(InputError, match=told):
        read_dump(tmp_path)


def test_a_table_without_its_columns_is_named(tmp_path: Path) -> None:
    completions(tmp_path, 1, advantage=None)
    with pytest.raises(InputError, match=r"completions_00001.parquet has no column 'advantage'"):
        read_dump(tmp_path)


def test_a_reward_that_is_no_number_is_none(tmp_path: Path) -> None:
    completions(tmp_path, 1)
    state(tmp_path, history({"step": 1.0, "reward": "much"}))
    assert read_dump(tmp_path).tables[1]["score"].to_pylist() == [1.5, 0.0, 0.0, 0.0]


def test_a_run_of_rekindles_own_is_not_taken_for_one_of_trl(tmp_path: Path) -> None:
    recorded(tmp_path)
    read_dump(tmp_path)
    (tmp_path / "run.toml").write_text('method = "grpo"\n')
    with pytest.raises(InputError, match=r"is a run of Rekindle's own trainer .*: read it as one, without --from trl"):
        read_dump(tmp_path)
