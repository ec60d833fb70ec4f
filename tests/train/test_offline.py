"""Runs that learn from written rows: nothing is sampled, faults are told before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle import methods
from rekindle.api import train
from rekindle.cli.main import main
from rekindle.errors import InputError
from rekindle.train.checks import check
from rekindle.train.settings import Rollout
from rekindle.train.start import Asked, prepare

OPTIONS = {"rollout.max_tokens": 24, "rollout.prompts": 4, "descent.lr": 1e-3, "checkpoint.rollouts": 1}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file of `rows`."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The step records of a run."""
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


def test_demonstrations_are_learned_without_a_sample(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+1", "demonstration": f"{a}+1={a + 1}"} for a in range(6)]
    out = train("sft", data=written(tmp_path / "d.jsonl", rows), steps=4, out=tmp_path / "run", options=OPTIONS)
    found = steps_of(out)
    assert [step["responses"] for step in found] == [0.0] * 4 and all(step["signal"] == 1.0 for step in found)
    assert found[-1]["nll"] < found[0]["nll"] and "entropy" not in found[0] and found[0]["data/score"] == 1.0
    assert sorted(p.name for p in (out / "rollouts").iterdir())[0] == "step-000001.parquet"


@pytest.mark.parametrize(
    ("text", "sentence"), [("7" * 40, "has 41 tokens, more than rollout.max_tokens"), (None, "needs a column")]
)
def test_rows_that_cannot_be_learned_are_told_before_the_first_step(
    text: str | None, sentence: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "1+1", "demonstration": "2"}, {"prompt": "1+2", "demonstration": text}]
    data = written(tmp_path / "d.jsonl", rows)
    with pytest.raises(InputError, match=sentence):
        train("sft", data=data, steps=4, out=tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()


def test_prompts_and_completions_are_learned_and_measured_on_held_out_answers(tmp_path: Path) -> None:
    rows = [{"prompt": f"{a}+1", "completion": f"{a}+1={a + 1}"} for a in range(6)]
    held = written(tmp_path / "h.jsonl", [{"prompt": f"{a}+2", "answer": str(a + 2)} for a in range(4)])
    options = {**OPTIONS, "data_heldout": str(held), "evaluate.every": 1}
    out = train("sft", data=written(tmp_path / "d.jsonl", rows), steps=2, out=tmp_path / "run", options=options)
    assert steps_of(out)[0]["data/score"] == 1.0
    found = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert any(record["kind"] == "eval" for record in found)


def test_data_of_another_layout_names_the_columns_that_are_needed(tmp_path: Path) -> None:
    data = written(tmp_path / "d.jsonl", [{"prompt": "1+1", "chosen": "2", "rejected": "3"}] * 1)
    with pytest.raises(
        InputError, match=r"needs a column 'demonstration' .* or write rows of prompt and completion \("
    ):
        train("sft", data=data, steps=1, out=tmp_path / "run", options=OPTIONS)
    rows = [{"prompt": "1+1", "completion": "2"}]
    with pytest.raises(InputError, match="add an 'answer' column, or name rows of prompt and answer by data_heldout"):
        train(
            "sft",
            data=written(tmp_path / "e.jsonl", rows),
            steps=1,
            out=tmp_path / "run",
            options={**OPTIONS, "evaluate.every": 1},
        )


def test_minibatches_that_tear_pairs_apart_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "chosen": "2", "rejected": "3"}]
    options = {**OPTIONS, "descent.cut_groups": True}
    with pytest.raises(InputError, match="tears the pairs of PairedPrompts apart"):
        train("dpo", data=written(tmp_path / "d.jsonl", rows), steps=1, out=tmp_path / "run", options=options)


def test_written_rows_are_taken_at_temperature_one(tmp_path: Path) -> None:
    data = written(tmp_path / "d.jsonl", [{"prompt": "1+1", "demonstration": "2"}])
    for method in ("sft", "dft", "otr"):
        with pytest.raises(InputError, match=r"temperature is 0\.7, and this method learns from written rows"):
            train(method, data=data, steps=1, out=tmp_path / "run", options={**OPTIONS, "rollout.temperature": 0.7})
    assert not (tmp_path / "run").exists()
    out = train("otr", data=data, steps=1, out=tmp_path / "run", options={**OPTIONS, "rollout.temperature": 1.0})
    assert steps_of(out)[0]["nll"] > 0
    check(methods.load("tvdpp").method(), Rollout(temperature=0.7))  # two distributions may meet at any temperature


def test_the_command_line_evaluates_by_generation_on_held_out_questions(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": str(a)} for a in range(6)]
    data = written(tmp_path / "pairs.jsonl", pairs)
    test = written(tmp_path / "test.jsonl", [{"prompt": "7+1=", "answer": "8"}])
    sets = [f"{name}={value}" for name, value in {**OPTIONS, "evaluate.every": 2, "evaluate.samples": 4}.items()]
    out = tmp_path / "run"
    words = ["train", "dpo", "--data", str(data), "--heldout", str(test), "--steps", "2", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main([*words, *(word for one in sets for word in ("--set", one))])
    assert not end.value.code
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    found = next(record for record in records if record["kind"] == "eval")
    assert found["step"] == 2 and 0.0 <= found["pass@1"] <= 1.0


def test_methods_on_pairs_refuse_data_in_which_no_prompt_has_two_responses(tmp_path: Path) -> None:
    rows = [{"prompt": f"1+{i}=", "completion": str(i), "reward": i} for i in range(3)]
    rows += [{"prompt": "5+5=", "completion": text, "reward": 7} for text in ("10", "ten")]
    with pytest.raises(InputError, match="no prompt of the data has two whose scores differ"):
        train("copg", data=written(tmp_path / "d.jsonl", rows), steps=1, out=tmp_path / "run", options=OPTIONS)
    with pytest.raises(InputError, match="scores by the scores in the data and would ignore --reward"):
        reward = str(tmp_path / "r.py") + ":one"
        (tmp_path / "r.py").write_text("def one(completions, **_):\n    return [1.0] * len(completions)\n")
        train("copg", data=tmp_path / "d.jsonl", reward=(reward,), steps=1, out=tmp_path / "run", options=OPTIONS)
    assert not (tmp_path / "run").exists()
    train("wbc", data=tmp_path / "d.jsonl", steps=1, out=tmp_path / "run", options=OPTIONS)


def test_options_on_samples_are_told_to_be_unread(tmp_path: Path) -> None:
    data = written(tmp_path / "d.jsonl", [{"prompt": "1+1=", "chosen": "2", "rejected": "3"}])
    notes = prepare(Asked("dpo", {"data": str(data), **OPTIONS, "rollout.group": 8}))[0].notes
    assert "rollout.group is not used: the data says which responses a prompt has" in notes
    assert not [n for n in prepare(Asked("dpo", {"data": str(data), **OPTIONS}))[0].notes if "not used" in n]
    assert not [n for n in prepare(Asked("grpo", {"task": "reduce", "rollout.group": 8}))[0].notes if "not used" in n]
