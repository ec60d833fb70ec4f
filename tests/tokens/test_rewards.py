"""User reward functions: both foreign signatures, the weighted sum, ungraded rows, and every error by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.rewards import load_function, load_rewards
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.files import load_files
from tests.tokens.rewarded import PAIR, refusal, rewards, rollouts


def test_trl_functions_get_the_columns_they_name(tmp_path: Path) -> None:
    code = """
def f(prompts, completions, completion_ids, answer, level):
    assert prompts == ["2+3", "2*3"] and answer == ["5", None] and level == [1, 2], (prompts, answer, level)
    assert completion_ids == [[0, 1], [3, 4]], completion_ids
    return [float(c == a) for c, a in zip(completions, answer)]
"""
    got = rewards(tmp_path, code, "f")(PAIR)
    assert got.score.tolist() == [1.0, 0.0]
    assert got.graded.tolist() == [True, True]


def test_a_function_with_kwargs_gets_every_column_and_one_without_gets_its_own(tmp_path: Path) -> None:
    code = """
def f(completions, **kwargs):
    assert set(kwargs) == {"prompts", "completion_ids", "answer", "level", "trainer_state", "log_extra", "log_metric"}
    return [len(c) for c in completions]
def g(level, missing=7, **_):
    return [missing * x for x in level]
"""
    got = rewards(tmp_path, code, "f", "g=0.5")(PAIR)
    assert got.score.tolist() == [1 + 3.5, 5 + 7.0]


def test_none_leaves_a_row_out_and_all_none_ungraded(tmp_path: Path) -> None:
    code = """
def f(completions, **kwargs): return [None, 2]
def g(completions, **kwargs): return (None, None)
def h(completions, **kwargs): return [None, True]
"""
    both = rewards(tmp_path, code, "f=-1.5", "g", "h")
    got = both(PAIR)
    assert got.score.tolist() == [0.0, -2.0]
    assert got.graded.tolist() == [False, True]
    assert got.success.tolist() == [False, False]
    assert got.metrics == {"reward/r.py:f": (2.0, 1), "reward/r.py:g": (0, 0), "reward/r.py:h": (1.0, 1)}
    assert both.parts(PAIR) == {"r.py:f": [None, 2.0], "r.py:g": [None, None], "r.py:h": [None, 1.0]}


@pytest.mark.parametrize(
    ("weights", "success"),
    [
        (("f",), [True, False]),
        (("f=0.5",), [True, False]),
        (("f=5",), [True, False]),
        (("f=0.1", "g=0.2", "one=0.3"), [False, False]),
        (("f=0.1", "one=0.2", "two=0.3"), [True, True]),
        (("f", "one=-0.5"), [False, False]),
        (("f", "g=-0.5"), [True, False]),
        (("f", "sometimes"), [True, True]),
        (("one=-1",), [False, False]),
    ],
)
def test_success_is_the_sum_of_the_positive_weights(
    tmp_path: Path, weights: tuple[str, ...], success: list[bool]
) -> None:
    code = """
def f(completions, **kwargs): return [1, 0.5]
def g(completions, **kwargs): return [0, 0]
def one(completions, **kwargs): return [1, 1]
def two(completions, **kwargs): return [1, 2]
def sometimes(completions, **kwargs): return [None, 1.5]
"""
    assert rewards(tmp_path, code, *weights)(PAIR).success.tolist() == success


def test_answers_arrive_as_the_data_holds_them(tmp_path: Path) -> None:
    lines = [{"prompt": "p", "answer": {"tests": [1, "2"]}}, {"prompt": "q", "answer": "so #### 1,234."}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = load_files(tmp_path / "d.jsonl", rewarded=True).split("train")
    code = """
def f(answer, **columns):
    assert answer == [{"tests": [1, "2"]}, "so #### 1,234."] and "messages" not in columns, answer
    return [1, 0]
def g(solution_str, ground_truth): return "tests" in ground_truth
"""
    got = rewards(tmp_path, code, "f", "g")(rollouts(list(rows), ["x", "y"]))
    assert got.score.tolist() == [2.0, 0.0] and got.success.tolist() == [True, False]


def test_async_functions_tensors_and_arrays(tmp_path: Path) -> None:
    code = """
import numpy, torch
async def f(completions, **kwargs): return torch.tensor([1.0, 2.0])
def g(completions, **kwargs): return numpy.array([0.5, 0.25])
"""
    assert rewards(tmp_path, code, "f", "g")(PAIR).score.tolist() == [1.5, 2.25]


def test_conversations_arrive_as_messages(tmp_path: Path) -> None:
    code = """
def f(prompts, completions, **kwargs):
    assert "messages" not in kwargs
    assert prompts[0] == [{"role": "user", "content": "q"}], prompts
    return [len(c[0]["content"]) for c in completions if c[0]["role"] == "assistant"]
"""
    chat = Example("a", "q", None, {"messages": [{"role": "user", "content": "q"}]})
    assert rewards(tmp_path, code, "f")(rollouts([chat], ["four"])).score.tolist() == [4.0]


def test_verl_functions_are_called_row_by_row(tmp_path: Path) -> None:
    code = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return {"score": float(solution_str == ground_truth) + extra_info["bonus"], "source": data_source}
def short(solution_str, ground_truth): return solution_str == ground_truth
"""
    meta = {"data_source": "d", "reward_model": {"ground_truth": "5"}, "extra_info": {"bonus": 0.25}}
    data = rollouts([Example("a", "p", "5.0", meta), Example("b", "p", "6"), Example("c", "p")], ["5", "6", "7"])
    assert rewards(tmp_path, code, "short")(data).score.tolist() == [1.0, 1.0, 0.0]
    assert rewards(tmp_path, code, "short")(data).graded.tolist() == [True, True, False]
    assert rewards(tmp_path, code, "compute_score")(data.take(torch.tensor([0]))).score.tolist() == [1.25]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return [1.0]", "returned 1 rewards for 2 completions"),
        ("return 1.0", "returned a float: return a list"),
        ("return 'ab'", "returned a str: return a list"),
        ("return {}", "returned a dict: return a list"),
        ("return [1, float('nan')]", "row 1: returned nan"),
        ("return [float('-inf'), 1]", "row 0: returned -inf"),
        ("return [1, 'x']", "row 1: returned a str"),
        ("return [[1, 2], 1]", "row 0: returned a list"),
        ("raise KeyError('z')", "raised KeyError"),
        ("raise SystemExit(0)", "raised SystemExit"),
    ],
)
def test_a_bad_answer_names_function_and_row(tmp_path: Path, body: str, sentence: str) -> None:
    message = refusal(tmp_path, f"def f(completions, **kwargs):\n    {body}\n")
    assert "reward 'r.py:f'" in message
    assert sentence in message


def test_bad_signatures_and_columns(tmp_path: Path) -> None:
    message = refusal(tmp_path, "def f(completions, levle): return [1, 1]\n")
    assert "its parameter 'levle' is no column of the data (there: prompts, completions," in message
    assert "no 'score'" in refusal(tmp_path, "def f(solution_str, ground_truth): return {'reward': 1}\n")
    clash = rollouts([Example("a", "p", None, {"completions": "x"})], ["t"])
    assert "column 'completions' collides" in refusal(tmp_path, "def f(completions): return [1]\n", data=clash)


@pytest.mark.parametrize("spec", ["r.py", ":f", "r.py:", "r.py:f=", "r.py:f=x", "r.py:f=nan"])
def test_bad_specs(tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.py").write_text("def f(completions): return []\n")
    with pytest.raises(InputError, match=r"FILE\.py:function"):
        load_rewards([spec])


def test_each_function_once_and_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'r\.py:f' is given twice"):
        rewards(tmp_path, "def f(completions): return []\n", "f", "f=2")
    with pytest.raises(InputError, match="no reward function given"):
        load_rewards([])


def test_functions_load_with_their_folder_importable_and_errors_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "helper_of_this_test.py").write_text("VALUE = 3\n")
    path = tmp_path / "m.py"

    def load(code: str, name: str = "f") -> Any:
        path.write_text(code)
        return load_function(f"{path}:{name}")

    good = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport helper_of_this_test as h\n"
    assert load(good + "@dataclass\nclass A:\n    x: int\ndef f(): return A(h.VALUE).x\n")() == 3
    for code, sentence in (
        ("def fun(): pass\nx = 1\n", f"{path}: no function 'f' in it: did you mean 'fun'"),
        ("f = 3\n", "'f' is not a function"),
        ("\nraise OSError('why')\n", f"{path}, line 2: OSError: why"),
        ("x = 1\ndef f(:\n", f"{path}, line 2: SyntaxError"),
        ("\nraise SystemExit(0)\n", f"{path}, line 2: SystemExit"),
        ("import nowhere_to_be_found\n", f"{path}, line 1: ModuleNotFoundError"),
        ("def g():\n    1 / 0\n\ng()\n", f"{path}, line 2: ZeroDivisionError"),
    ):
        with pytest.raises(InputError) as caught:
            load(code)
        assert sentence in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_function(f"{tmp_path / 'none.py'}:f")
    with pytest.raises(InputError, match="not a Python file"):
        (tmp_path / "m.txt").write_text("x")
        load_function(f"{tmp_path / 'm.txt'}:f")


@pytest.mark.parametrize("text", ["'1'", "b'1'", "bytearray(b'1')"])
def test_a_text_is_no_reward_even_where_it_reads_as_a_number(tmp_path: Path, text: str) -> None:
    said = refusal(tmp_path, f"def f(completions, **columns): return [1.0, {text}]\n")
    assert said.startswith("reward 'r.py:f', row 1: returned a ") and said.endswith("return a number or None")
