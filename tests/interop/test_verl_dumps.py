"""verl's dumps read: rows, groups and metrics by our names; what is not verl's is one sentence with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.interop.foreign import ForeignRun
from rekindle.interop.verl.dumps import read_dump
from rekindle.interop.verl.names import OURS, ours


def row(step: int, prompt: str, output: str, score: float, **more: Any) -> dict[str, Any]:
    return {"input": prompt, "output": output, "gts": "7", "score": score, "step": step, **more}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "2.jsonl",
        row(2, "b?", "so 7\u2028", 1.0, uid="u1_0_0"),
        row(2, "a?", "so 8", -0.5, uid="u2_0_0"),
        row(2, "b?", "so 9", 0.0, uid="u1_1_0"),
    )
    write(
        tmp_path / "10.jsonl",
        row(10, "a?", "é 7", 0.75, acc=False, pred="7", tries=3, gts={"target": 7}),
        row(10, "c?", "8", -1, acc=True, pred=None, tries=None),
    )
    return tmp_path


def test_rows_have_our_columns(folder: Path) -> None:
    run = read_dump(str(folder))
    assert isinstance(run, ForeignRun) and list(run.tables) == [2, 10], "by number, not by name"
    first, second = (table.to_pydict() for table in run.tables.values())
    assert first["id"] == ["prompt-0", "prompt-1", "prompt-0"] and second["id"] == ["prompt-1", "prompt-2"]
    assert first["group"] == [0, 1, 0] and second["group"] == [0, 1], "one group a prompt text of the step"
    assert first["uid"] == [0, 1, 2] and second["uid"] == [3, 4]
    assert first["prompt"] == ["b?", "a?", "b?"] and first["response"] == ["so 7\u2028", "so 8", "so 9"]
    assert first["score"] == [1.0, -0.5, 0.0] and first["success"] == [True, False, False]
    assert first["reference"] == ["7"] * 3 and first["answer"] == [None] * 3
    assert first["reward/verl/uid"] == ["u1_0_0", "u2_0_0", "u1_1_0"]


def test_what_the_reward_said_is_kept(folder: Path) -> None:
    rows = read_dump(folder).tables[10].to_pydict()
    assert rows["success"] == [False, True], "the reward's own word goes before the sign of the score"
    assert rows["answer"] == ["7", None] and rows["reference"] == ['{"target": 7}', "7"]
    assert rows["reward/verl/tries"] == [3.0, None]
    assert {"reward/verl/acc", "reward/verl/pred"}.isdisjoint(rows)


def test_means_stand_where_no_log_is(folder: Path) -> None:
    run = read_dump(folder)
    assert [step["step"] for step in run.steps] == [2.0, 10.0]
    assert run.steps[0] == {
        "step": 2.0,
        "score": pytest.approx(1 / 6),
        "success": pytest.approx(1 / 3),
        "responses": 3.0,
    }
    assert run.config == {"trainer": "verl"}


def test_the_log_of_the_folder_gives_metrics_by_our_names(folder: Path) -> None:
    data = {"actor/entropy": 0.5, "critic/score/mean": 0.25, "response_length/mean": 12, "actor/pg_clipfrac": 0.125}
    data |= {"actor/clip_high": 0.0625, "training/epoch": 0, "perf/name": "h", "critic/rewards/max": float("nan")}
    write(folder / "experiment.jsonl", {"step": 2, "data": data}, {"step": 3, "data": {"actor/entropy": 0.4}})
    steps = {step["step"]: step for step in read_dump(folder).steps}
    assert list(steps) == [2.0, 3.0, 10.0]
    told = {"entropy": 0.5, "score": 0.25, "length": 12.0, "actor/pg_clipfrac": 0.125, "clip_high": 0.0625}
    assert steps[2] == {"step": 2.0, "success": pytest.approx(1 / 3), "responses": 3.0, "training/epoch": 0.0, **told}
    assert steps[3] == {"step": 3.0, "entropy": 0.4}


def test_a_later_line_of_a_step_goes_on_top(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", {"step": 0, "data": {"val/acc": 1, "lr": 2}}, {"step": 0, "data": {"lr": 3}})
    run = read_dump(tmp_path)
    assert run.steps == [{"step": 0.0, "val/acc": 1.0, "lr": 3.0}] and run.tables == {}


def test_no_two_metrics_of_verl_get_one_name_of_ours() -> None:
    assert len(set(OURS.values())) == len(OURS)
    assert ours("actor/entropy") == "entropy" and ours("actor/pg_loss") == "actor/pg_loss"
    assert ours("clip_high") == "clip_high" and ours("actor/outside") == "outside"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"input": "a"', r"2\.jsonl, line 3: no JSON \(.*\): cut the line off"),
        ("[" * 100_000, r"2\.jsonl, line 3: no JSON"),
        ("\xff", r"2\.jsonl, line 3: no JSON"),
        ("[1]", r"2\.jsonl, line 3: no JSON object"),
        (json.dumps({"input": "a", "output": "b", "gts": None, "step": 2}), "line 3: no 'score', which verl writes"),
        (json.dumps(row(2, "a", "b", 1.0) | {"output": 3}), "line 3: 'output' is no text"),
        (json.dumps(row(2, "a", "b", float("nan"))), "line 3: the score nan is no finite number"),
        (json.dumps(row(2, "a", "b", 10**400)), "line 3: the score 1000.* is no finite number"),
        (json.dumps(row(2, "a", "b", 1.0) | {"score": True}), "line 3: the score True is no finite number"),
        (json.dumps(row(4, "a", "b", 1.0)), "line 3: step 4 in the file of another"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path / "2.jsonl", row(2, "a", "b", 1.0))
    path.write_bytes(path.read_bytes() + b"\n" + text.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=sentence):
        read_dump(tmp_path)


@pytest.mark.parametrize("line", [{"step": "2", "data": {}}, {"step": 2, "data": 3}, {"loss": 1}])
def test_a_log_that_is_not_verls_is_named(tmp_path: Path, line: dict[str, Any]) -> None:
    write(tmp_path / "notes.jsonl", {"step": 1, "data": {}}, line)
    with pytest.raises(InputError, match=r"notes\.jsonl, line 2: no step with data"):
        read_dump(tmp_path)


def test_a_folder_without_a_dump(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no STEP\.jsonl of verl: set trainer\.rollout_data_dir"):
        read_dump(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_dump(tmp_path / "nowhere")


def test_rows_that_fill_up_a_batch_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", row(1, "a", "b", 1.0), row(1, "", "", 0.0), row(1, "a", "", 0.0))
    table = read_dump(tmp_path).tables[1]
    assert table["score"].to_pylist() == [1.0, 0.0] and table["uid"].to_pylist() == [0, 1]


def test_an_empty_file_is_a_step_without_rows(tmp_path: Path) -> None:
    (tmp_path / "5.jsonl").write_text("\n")
    run = read_dump(tmp_path)
    assert run.steps == [{"step": 5.0, "responses": 0.0}] and len(run.tables[5]) == 0


@pytest.mark.parametrize("where", ["output", "gts", "note"])
def test_half_a_character_is_named_with_its_line_and_a_whole_one_is_read(tmp_path: Path, where: str) -> None:
    path = tmp_path / "1.jsonl"
    rows = [row(1, "a?", "7", 1.0), row(1, "a?", "7", 1.0) | {where: "\ud83d\ude00"}]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert "\\ud83d" in path.read_text() and len(read_dump(tmp_path).tables[1]) == 2
    path.write_text(path.read_text().replace("\\ude00", ""))
    with pytest.raises(InputError, match=r"1.jsonl, line 2: half of a surrogate pair"):
        read_dump(tmp_path)
