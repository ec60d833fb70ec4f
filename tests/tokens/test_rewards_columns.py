"""Every function gets every column of the data in every batch; one that cannot be called is refused at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.tokens.rewards import Rewards
from rekindle.tokens.rewards.rows import truth
from rekindle.tokens.tasks.files import Reading, load_files
from rekindle.tokens.tasks.lazy import looked_at
from tests.cli.folders import rekindle
from tests.tokens.rewarded import PAIR, refusal, rewards, rollouts

SEEN = """
def needs(completions, level): return [float(x or 0) for x in level]
def keyed(completions, **more): return [float(x or 0) for x in more["level"]]
def answers(completions, **more): return [float(x is not None) for x in more["answer"]]
def one(prompt, completions, prompt_ids, completion_ids, level, answer, **more): return float(level or 0)
def unknown(completions, levle): return [1.0] * len(completions)
def score(solution_str, ground_truth, levle): return 1.0
"""


def data(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def partly(folder: Path) -> Path:
    """Rows of which only the last has the column `level`, and only the last an answer."""
    return data(folder / "a.jsonl", *({"prompt": f"{i}"} for i in range(3)), {"prompt": "x", "answer": "1", "level": 2})


def ready(folder: Path, spec: str, reading: Reading) -> tuple[Rewards, Any]:
    examples = load_files(partly(folder), reading=reading).split("train")
    given = rewards(folder, SEEN, spec)
    given.fit(looked_at(examples))
    return given, examples


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("spec", "last"), [("needs", 2.0), ("keyed", 2.0), ("answers", 1.0), ("one", 2.0)])
def test_a_column_is_there_in_a_batch_of_rows_that_lack_it(
    tmp_path: Path, spec: str, last: float, streaming: bool
) -> None:
    given, examples = ready(tmp_path, spec, Reading(rewarded=True, streaming=streaming))
    assert given(rollouts([examples[0], examples[1]], ["", ""])).score.tolist() == [0.0, 0.0]
    assert given(rollouts([examples[0], examples[3]], ["", ""])).score.tolist() == [0.0, last]


def test_a_column_that_was_seen_once_stays(tmp_path: Path) -> None:
    examples = load_files(partly(tmp_path)).split("train")
    given = rewards(tmp_path, SEEN, "needs")
    with pytest.raises(InputError, match="its parameter 'level' is no column"):
        given(rollouts([examples[0]], [""]))
    for row, score in ((3, 2.0), (0, 0.0)):
        assert given(rollouts([examples[row]], [""])).score.tolist() == [score]


@pytest.mark.parametrize("spec", ["unknown", "score"])
def test_a_parameter_that_no_column_fills_is_refused_before_anything_is_sampled(tmp_path: Path, spec: str) -> None:
    with pytest.raises(InputError, match=r"'levle' is no column of the data \(there: .*rename it or give it a default"):
        ready(tmp_path, spec, Reading(rewarded=True)) if spec == "unknown" else rewards(tmp_path, SEEN, spec).fit(
            load_files(data(tmp_path / "b.jsonl", {"prompt": "p", "answer": "1"})).split("train")
        )


def test_a_run_and_its_plan_refuse_it_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.py").write_text(SEEN)
    spec, out = f"{tmp_path / 'r.py'}:unknown", tmp_path / "out"
    args = ("--model", "embedded", "--data", partly(tmp_path), "--reward", spec, "--out", out)
    ended = rekindle(capsys, "train", "grpo", *args, "--dry-run", "--no-probe")
    assert ended.code == 2 and "parameter 'levle' is no column of the data" in ended.err and ended.out == ""
    with pytest.raises(InputError, match="parameter 'levle' is no column of the data"):
        train("grpo", model=str(tmp_path / "no model is read"), data=str(partly(tmp_path)), reward=[spec], out=str(out))
    assert not out.exists()


def test_verls_ground_truth_is_the_answer_where_reward_model_has_none(tmp_path: Path) -> None:
    row = {"data_source": "x", "prompt": "1+1?", "reward_model": {"style": "rule"}, "answer": "2"}
    (example,) = load_files(data(tmp_path / "a.jsonl", row)).split("train")
    assert example.answer == truth(example) == "2"
    code = "def compute_score(data_source, solution_str, ground_truth): return float(solution_str == ground_truth)"
    got = rewards(tmp_path, code, "compute_score")(rollouts([example, example], ["2", "3"]))
    assert got.graded.tolist() == [True, True] and got.score.tolist() == [1.0, 0.0]


RETURNED = """
import numpy as np, torch
def zero_d(completions): return torch.tensor(1.0)
def array(completions): return np.array(1.0)
def some(completions): return {1.0, 2.0}
def huge(completions): return [10**400] * len(completions)
def logged(queries, prompts, labels): return {"rewards": [1.0, 1.0], "extra_logs": [1]}
def tensor(queries, prompts, labels): return {"rewards": [1.0, 1.0], "extra_logs": torch.ones(2)}
def rewarded(queries, prompts, labels): return {"rewards": torch.tensor(0.5)}
def metric(completions, log_metric): log_metric("m", 10**400)
def score(solution_str, ground_truth): return {"score": -10**400}
"""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("zero_d", "returned a Tensor: return a list of rewards"),
        ("array", "returned a ndarray: return a list of rewards"),
        ("some", "returned a set: return a list of rewards"),
        ("huge", "row 0: returned inf for prompt 'a': return a finite number or None"),
        ("logged", "'extra_logs' is a list: return a dict"),
        ("tensor", "'extra_logs' is a Tensor: return a dict"),
        ("rewarded", "returned a Tensor: return a list of rewards"),
        ("metric", "log_metric('m') got inf: log a finite number"),
        ("score", "row 0: returned -inf for prompt 'a': return a finite number or None"),
    ],
)
def test_what_no_reward_can_be_is_one_sentence(tmp_path: Path, spec: str, words: str) -> None:
    sentence = refusal(tmp_path, RETURNED, spec)
    assert words in sentence and f"reward 'r.py:{spec}'" in sentence and "\n" not in sentence


def test_a_number_beside_the_score_that_is_too_large_is_kept_as_infinity(tmp_path: Path) -> None:
    code = "def f(solution_str, ground_truth): return {'score': 1.0, 'big': 10**400}"
    got = rewards(tmp_path, code, "verl|f")(PAIR)
    assert got.extra["reward/r.py:f/big"] == [float("inf"), None] and "reward/r.py:f/big" not in got.metrics
