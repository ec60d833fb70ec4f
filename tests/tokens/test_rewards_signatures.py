"""Each library's signature: what a function is handed, what its return means, and how it is told which it is."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.rewards import (
    Reward,
    Rewards,
    TrainerState,
    from_areal,
    from_openrlhf,
    from_trl,
    from_verl,
    load_rewards,
    reward_files,
)
from rekindle.tokens.rewards.base import tidy
from rekindle.tokens.rewards.conventions import Areal, OpenRlhf, Trl, Verl, VerlBatch, convention_of
from rekindle.tokens.rollouts import Example
from tests.tokens.rewarded import PAIR, refusal, rewards, rollouts

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+3"}]
TALK = rollouts([Example("a", "2+3", "5", {"messages": CHAT})], ["5"])


def test_trl_functions_are_told_where_the_run_is(tmp_path: Path) -> None:
    code = """
def f(completions, trainer_state, **kwargs):
    return [trainer_state.global_step + 10 * trainer_state.max_steps + 100 * trainer_state.epoch for _ in completions]
"""
    given = rewards(tmp_path, code, "f")
    given.progress.at(3, 8, 0.5)
    assert given(PAIR).score.tolist() == [133.0, 133.0]
    assert given(PAIR, TrainerState(global_step=1, max_steps=2, epoch=0.0)).score.tolist() == [21.0, 21.0]
    unknown = "def f(completions, trainer_state): return [trainer_state.num_train_epochs]\n"
    assert "raised AttributeError" in refusal(tmp_path, unknown)


def test_trl_functions_log_columns_and_metrics(tmp_path: Path) -> None:
    code = """
import numpy
def f(completions, log_extra, log_metric, **kwargs):
    log_extra("extracted", [c.upper() for c in completions])
    log_extra("count", numpy.array([1, 2]))
    log_extra("mixed", [None, 3])
    log_metric("words", 4)
    log_metric("words", numpy.float32(2))
    return [1, None]
"""
    got = rewards(tmp_path, code, "f")(PAIR)
    assert got.metrics == {"reward/r.py:f": (1.0, 1), "reward/r.py:f/words": (6.0, 2.0)}
    assert got.extra == {
        "reward/r.py:f": [1.0, None],
        "reward/r.py:f/extracted": ["5", "SEVEN"],
        "reward/r.py:f/count": [1.0, 2.0],
        "reward/r.py:f/mixed": [None, 3.0],
    }
    again = pickle.loads(pickle.dumps(got))
    assert again.extra == got.extra and torch.equal(again.score, got.score)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("log_extra('x', [1])", "log_extra('x') got 1 values for 2 completions"),
        ("log_metric('x', float('nan'))", "log_metric('x') got nan: log a finite number"),
        ("log_metric('x', 'much')", "log_metric('x') got 'much'"),
    ],
)
def test_what_cannot_be_logged_is_refused(tmp_path: Path, call: str, sentence: str) -> None:
    code = f"def f(completions, log_extra, log_metric, **kwargs):\n    {call}\n    return [1, 1]\n"
    message = refusal(tmp_path, code)
    assert sentence in message and "reward 'r.py:f'" in message


def test_a_column_is_of_one_kind() -> None:
    assert tidy([True, None]) == [True, None]
    assert tidy([True, 2, torch.tensor(0.5)]) == [1.0, 2.0, 0.5]
    assert tidy([1, "a", None, [2]]) == ["1", "a", None, "[2]"]
    assert tidy([torch.tensor([1, 2])]) == ["[1, 2]"]


def test_id_and_answer_are_there_for_who_names_them(tmp_path: Path) -> None:
    code = """
def f(completions, id, answer, **kwargs):
    assert id == ["a", "b"] and answer == [None, None] and set(kwargs) >= {"level"}
    return [1, 1]
def g(completions, **kwargs):
    assert not {"id", "answer"} & set(kwargs)
    return [1, 1]
"""
    bare = rollouts([Example("a", "p", None, {"level": 1}), Example("b", "q", None, {"level": 1})], ["x", "y"])
    assert rewards(tmp_path, code, "f", "g")(bare).score.tolist() == [2.0, 2.0]
    numbered = rollouts([Example("7", "p", None, {"id": 7})], ["x"])
    assert rewards(tmp_path, "def f(completions, id): return [id[0] + 1]\n", "f")(numbered).score.tolist() == [8.0]


def test_a_column_named_like_an_argument_is_refused(tmp_path: Path) -> None:
    for column in ("prompts", "trainer_state", "log_metric", "completion"):
        clash = rollouts([Example("a", "p", None, {column: 1})], ["t"])
        said = refusal(tmp_path, "def f(completions): return [1]\n", data=clash)
        assert f"column '{column}' collides" in said
    clash = rollouts([Example("a", "p", None, {"prompt_ids": 1})], ["t"])
    assert "column 'prompt_ids' collides" in refusal(tmp_path, "def f(prompt, completions): return 1\n", data=clash)


VERL = {"data_source": "d", "reward_model": {"ground_truth": "5"}, "extra_info": {"index": 4}}


def test_verl_rows_get_extra_info_as_verl_fills_it(tmp_path: Path) -> None:
    code = """
def compute_score(data_source, solution_str, ground_truth, extra_info):
    assert extra_info.pop("num_turns") == 2 and extra_info.pop("rollout_reward_scores") == {}
    assert extra_info in ({"index": 4}, {}), extra_info
    return 1
"""
    data = rollouts([Example("a", "p", None, VERL), Example("b", "p", "6"), Example("c", "p", "7")], ["5", "6", "7"])
    given = rewards(tmp_path, code, "compute_score")
    assert given(data).score.tolist() == given(data).score.tolist() == [1.0, 1.0, 1.0]
    assert data.example[0].meta["extra_info"] == {"index": 4}


def test_of_verls_dict_the_score_trains_and_the_numbers_are_metrics(tmp_path: Path) -> None:
    code = """
def compute_score(solution_str, ground_truth, **kwargs):
    right = solution_str == ground_truth
    said = {"score": 2.0 if right else -1.0, "acc": right, "pred": solution_str, "nan": float("nan")}
    return said if right else {**said, "wrong": 1}
"""
    data = rollouts([Example("a", "p", "5"), Example("b", "p", "6"), Example("c", "p")], ["5", "x", "y"])
    got = rewards(tmp_path, code, "compute_score")(data)
    name = "reward/r.py:compute_score"
    assert got.score.tolist() == [2.0, -1.0, 0.0] and got.graded.tolist() == [True, True, False]
    assert got.success.tolist() == [True, False, False]
    assert got.metrics == {name: (1.0, 2), f"{name}/acc": (1.0, 2), f"{name}/wrong": (1.0, 1)}
    assert got.extra[name] == [2.0, -1.0, None]
    assert got.extra[f"{name}/acc"] == [True, False, None]
    assert got.extra[f"{name}/pred"] == ["5", "x", None]
    assert got.extra[f"{name}/wrong"] == [None, 1.0, None]


def test_verls_batch_form_leaves_out_rows_without_a_truth(tmp_path: Path) -> None:
    code = """
def compute_score(data_sources, solution_strs, ground_truths, extra_infos):
    assert data_sources == ["d", None] and ground_truths == ["5", "7"] and extra_infos[0]["index"] == 4
    return [{"score": len(s), "first": s[0]} for s in solution_strs]
def short(solution_strs): return [1]
"""
    data = rollouts([Example("a", "p", None, VERL), Example("b", "p"), Example("c", "p", "7")], ["5", "no", "seven"])
    got = rewards(tmp_path, code, "compute_score")(data)
    assert got.score.tolist() == [1.0, 0.0, 5.0] and got.graded.tolist() == [True, False, True]
    assert got.extra["reward/r.py:compute_score/first"] == ["5", None, "s"]
    with pytest.raises(InputError, match=r"returned 1 rewards for 2 completions"):
        rewards(tmp_path, code, "short")(data)
    bare = rollouts([Example("b", "p")], ["x"])
    assert rewards(tmp_path, code, "short")(bare).graded.tolist() == [False]


def test_openrlhf_trains_on_rewards_and_tells_success_by_scores(tmp_path: Path) -> None:
    code = """
import torch
def reward_func(queries, prompts, labels, **kwargs):
    assert queries == ["2+35", "2*3seven"] and prompts == ["2+3", "2*3"] and labels == ["5", None]
    logs = {"length": torch.tensor([1, 5]), "share": 0.25, "mean": torch.tensor(3.0)}
    return {"rewards": torch.tensor([-2.0, 7.0]), "scores": torch.tensor([1.0, 0.0]), "extra_logs": logs}
def bare(queries, prompts, labels): return torch.tensor([1.0, 0.5])
def wrong(queries, prompts, labels): return {"scores": [1, 1]}
def few(queries, prompts, labels): return {"rewards": [1, 1], "extra_logs": {"x": [1]}}
"""
    got = rewards(tmp_path, code, "reward_func=0.5")(PAIR)
    assert got.score.tolist() == [-1.0, 3.5] and got.success.tolist() == [True, False]
    name = "reward/r.py:reward_func"
    assert got.metrics == {
        name: (5.0, 2),
        f"{name}/length": (6.0, 2),
        f"{name}/share": (0.25, 1.0),
        f"{name}/mean": (3, 1),
    }
    assert got.extra[f"{name}/length"] == [1.0, 5.0]
    assert rewards(tmp_path, code, "bare")(PAIR).success.tolist() == [True, False]
    assert "no 'rewards'" in refusal(tmp_path, code, "wrong")
    assert "extra_logs 'x'" in refusal(tmp_path, code, "few")


def test_openrlhf_prompts_of_messages_are_their_texts(tmp_path: Path) -> None:
    code = """
def f(queries, prompts, labels):
    return [queries[0] == prompts[0] + "5" and prompts[0] == "be brief\\n2+3\\n"]
"""
    assert rewards(tmp_path, code, "f")(TALK).score.tolist() == [1.0]


def test_areal_functions_are_called_row_by_row(tmp_path: Path) -> None:
    code = """
def reward_fn(prompt, completions, prompt_ids, completion_ids, answer, **kwargs):
    assert kwargs == {"level": 1} or kwargs == {"level": 2}
    assert prompt_ids[0] == 7 and completion_ids == [3 * prompt_ids[1], 3 * prompt_ids[1] + 1]
    return prompt == "2+3" and completions == answer
"""
    assert rewards(tmp_path, code, "reward_fn")(PAIR).score.tolist() == [1.0, 0.0]
    said = refusal(tmp_path, "def f(prompt, completions):\n    if completions == 'seven': 1 / 0\n    return 1\n")
    assert "reward 'r.py:f', row 1 raised ZeroDivisionError" in said


def of(source: str) -> Any:
    space: dict[str, Any] = {}
    exec(source, space)
    return convention_of("f", space["f"])


@pytest.mark.parametrize(
    ("parameters", "convention"),
    [
        ("completions, **kwargs", Trl()),
        ("prompts, completions, solution_str", Trl()),
        ("prompts, completions, queries, labels", Trl()),
        ("data_source, solution_str, ground_truth, extra_info=None, **kwargs", Verl()),
        ("data_sources, solution_strs, ground_truths, extra_infos, **kwargs", VerlBatch()),
        ("queries, prompts, labels", OpenRlhf()),
        ("prompt, completions, prompt_ids, completion_ids, answer, **kwargs", Areal()),
        ("**kwargs", Trl()),
    ],
)
def test_a_convention_is_told_by_parameter_names(parameters: str, convention: object) -> None:
    assert of(f"def f({parameters}): pass") == convention


def test_a_prefix_says_it_where_names_do_not(tmp_path: Path) -> None:
    code = """
def f(**given): return {"score": 1.0, "got": " ".join(sorted(given))}
def rows(**given): return [1.0] * 2
def areal(**given): return float("prompt_ids" in given)
def lists(**given): return {"rewards": [1, 2] if "queries" in given else [0, 0]}
"""
    data = rollouts([Example("a", "p", "5"), Example("b", "p", "6")], ["5", "6"])
    got = rewards(tmp_path, code, "verl|f=0.5", "trl|rows", "areal|areal", "openrlhf|lists")
    assert [reward.name for reward in got.rewards] == ["r.py:f", "r.py:rows", "r.py:areal", "r.py:lists"]
    told = got(data)
    assert told.score.tolist() == [0.5 + 1 + 1 + 1, 0.5 + 1 + 1 + 2]
    assert told.extra["reward/r.py:f/got"] == ["data_source extra_info ground_truth solution_str"] * 2


class Judge:
    """An object that is called."""

    def __init__(self, worth: float) -> None:
        self.worth = worth

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        return [self.worth] * len(completions)


def half(completions: list[str], factor: float, **kwargs: Any) -> list[float]:
    return [factor / 2] * len(completions)


def score(solution_str: str, ground_truth: str) -> float:
    return float(solution_str == ground_truth)


def test_objects_partials_and_adapters_from_python() -> None:
    found = (from_trl(Judge(3.0)), from_trl(partial(half, factor=4.0), weight=0.5), from_verl(score, name="exact"))
    assert [reward.name for reward in found] == ["Judge", "half", "exact"]
    assert Rewards(found)(PAIR).score.tolist() == [3 + 1 + 1, 3 + 1]
    assert from_openrlhf(half).convention == OpenRlhf() and from_areal(half).convention == Areal()
    assert Reward("Judge", Judge(2.0))(PAIR) == [2.0, 2.0]
    with pytest.raises(InputError, match="'Judge' is given twice"):
        Rewards((from_trl(Judge(1.0)), from_trl(Judge(2.0))))


def test_modules_objects_and_classes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kit_of_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = (
        "class Judge:\n    def __call__(self, completions): return [1.0] * len(completions)\njudge = Judge()\nx = 3\n"
    )
    (package / "parts.py").write_text(code)
    (package / "broken.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.syspath_prepend(tmp_path)
    got = load_rewards(["kit_of_this_test.parts:judge=2"])
    assert got.rewards[0].name == "kit_of_this_test.parts:judge" and got(PAIR).score.tolist() == [2.0, 2.0]
    for spec, sentence in (
        ("kit_of_this_test.parts:Judge", "'Judge' is a class"),
        ("kit_of_this_test.parts:jugde", "did you mean 'judge'"),
        ("kit_of_this_test.parts:x", "'x' is not a function"),
        ("kit_of_this_test.nothing:f", "no module 'kit_of_this_test.nothing': install it"),
        ("no_such_kit.parts:f", "no module 'no_such_kit'"),
        ("kit_of_this_test.broken:f", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("verl:f", "not of the form"),
    ):
        with pytest.raises(InputError) as caught:
            load_rewards([spec])
        assert sentence in str(caught.value), caught.value


def test_the_files_behind_specs(tmp_path: Path) -> None:
    own = str(tmp_path / "r.py")
    specs = [f"{own}:f=0.5", f"verl:{own}:g", "rekindle.errors:nearest", "sys:exit", "no_such_kit.parts:f"]
    files = reward_files(specs)
    assert files[0] == own and len(files) == 2
    assert Path(files[1]).name == "errors.py" and "def nearest" in Path(files[1]).read_text()


def test_a_file_is_run_once_for_all_its_functions(tmp_path: Path) -> None:
    code = """
CALLS = []
def f(completions): CALLS.append(1); return [len(CALLS)] * 2
def g(completions): CALLS.append(1); return [len(CALLS)] * 2
"""
    assert rewards(tmp_path, code, "f", "g")(PAIR).score.tolist() == [3.0, 3.0]


def test_verifiers_that_are_not_installed_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pip install 'verifiers==0\.4\.0'"):
        load_rewards([f"verifiers:{tmp_path / 'r.py'}:Taskset"])
