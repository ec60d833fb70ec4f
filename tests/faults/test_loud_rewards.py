"""Reward functions that return no reward, or nothing that teaches: an error by name, or a warning in numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.errors import GuardStop, InputError
from tests.faults.conftest import Fault
from tests.faults.runs import named, rewards_file, run, warnings

ROW = r"reward 'r\.py:f', row 3: returned "
BAD = (
    ("too few", "return [1.0]", r"returned 1 rewards for 8 completions: match them"),
    ("a text", "return 'good'", r"returned a str: return a list"),
    ("a truth for all", "return True", r"returned a bool: return a list"),
    (
        "a text in a row",
        "return [1, 2, 3, 'x', 5, 6, 7, 8]",
        ROW + r"a str \('x'\) for prompt 'train-\d+': return a number",
    ),
    (
        "nan in a row",
        "return [0, 0, 0, float('nan'), 0, 0, 0, 0]",
        ROW + r"nan for prompt 'train-\d+': return a finite",
    ),
    (
        "inf in a row",
        "return [0, 0, 0, float('inf'), 0, 0, 0, 0]",
        ROW + r"inf for prompt 'train-\d+': return a finite",
    ),
    ("a tensor [1, B]", "return torch.ones(1, len(completions))", r"returned 1 rewards for 8 completions"),
    (
        "a tensor [B, 2]",
        "return torch.ones(len(completions), 2)",
        r"row 0: returned a Tensor \(tensor\(\[1., 1.\]\)\) for",
    ),
    ("an error", "raise KeyError('key')", r"reward 'r\.py:f' raised KeyError: 'key': fix the function"),
)


@pytest.mark.parametrize(("what", "body", "said"), BAD, ids=[what for what, *_ in BAD])
def test_what_is_no_reward_is_an_error(tmp_path: Path, fault: Fault, what: str, body: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as stop:
        run("grpo", tmp_path, reward=rewards_file(tmp_path, body))
    assert not (tmp_path / "run" / "final").exists()
    fault("rewards", f"a reward function that returns {what}", "InputError (exit 2) before any update", str(stop.value))


def test_a_tensor_of_one_number_a_row_is_a_reward(tmp_path: Path) -> None:
    run("grpo", tmp_path, steps=1, reward=rewards_file(tmp_path, "return torch.rand(len(completions), 1)"))


@pytest.mark.parametrize(("what", "value"), [("0", "0.0"), ("1", "1"), ("0.3", "0.3")])
def test_the_same_reward_for_ever(tmp_path: Path, fault: Fault, what: str, value: str) -> None:
    reward, options = rewards_file(tmp_path, f"return [{value}] * len(completions)"), {"empty_steps": 7}
    with pytest.raises(GuardStop, match=r"no response taught anything in the last 7 steps"):
        run("grpo", tmp_path, steps=9, reward=reward, options=options)
    (told,) = warnings(tmp_path)
    assert told["what"] == "reward 'r.py:f' has given every response the same" and told["step"] == 5
    assert told["numbers"] == {"value": float(value), "responses": 40, "steps": 5}
    does = "a warning after guards.constant steps, once; GuardStop after empty_steps"
    fault("rewards", f"a reward function that always gives {what}", does, str(told["numbers"]))


def test_a_function_that_varied_once_may_saturate(tmp_path: Path) -> None:
    body = "return [float(kw_step > 0 or i % 2) for i in range(len(completions))]"
    (tmp_path / "r.py").write_text(
        f"def f(completions, trainer_state, **columns):\n    kw_step = trainer_state.global_step\n    {body}\n"
    )
    run("grpo", tmp_path, steps=8, reward=[f"{tmp_path / 'r.py'}:f"], options={"guards.constant": 2})
    assert warnings(tmp_path) == []


def test_none_to_every_row(tmp_path: Path, fault: Fault) -> None:
    reward = rewards_file(tmp_path, "return [None] * len(completions)")
    with pytest.raises(GuardStop, match=r"no response taught anything in the last 3 steps"):
        run("grpo", tmp_path, steps=9, reward=reward, options={"empty_steps": 3})
    told = {record["what"]: record for record in warnings(tmp_path)}
    assert told["reward 'r.py:f' gave None to every response"]["numbers"] == {"given": 0}
    assert told["responses were not graded"]["numbers"]["share"] == 1.0
    assert [record["step"] for record in told.values()] == [1, 1], "once each"
    fault("rewards", "a reward function that returns None everywhere", "a warning at once; GuardStop after empty_steps")


def test_an_absurd_scale(tmp_path: Path, fault: Fault) -> None:
    reward = rewards_file(tmp_path, "return [1e6 * (i == 2) for i in range(len(completions))]")
    run("grpo", tmp_path, steps=2, reward=reward)
    (told,) = warnings(tmp_path)
    assert told["numbers"]["largest"] == 1e6 and told["numbers"]["prompt"].startswith("train-")
    fault("rewards", "a reward of 1e6", "a warning that names value and prompt, once", str(told["numbers"]))


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_that_does_not_come_back(tmp_path: Path, fault: Fault, kind: str) -> None:
    pause, told = "time.sleep(0.05)" if kind == "def" else "await asyncio.sleep(0.05)", tmp_path / "told"
    (tmp_path / "r.py").write_text(
        f"import asyncio, pathlib, time\n\n{kind} f(completions, **columns):\n"
        f"    while not pathlib.Path({str(told)!r}).exists():\n        {pause}\n"
        "    return [float(i % 2) for i in range(len(completions))]\n"
    )
    notes: list[str] = []

    def heard(record: dict) -> None:
        if record["kind"] == "note" and "not come back" in record["text"]:
            notes.append(record["text"])
            if len(notes) == 2:
                told.touch()

    run("grpo", tmp_path, steps=1, reward=[f"{tmp_path / 'r.py'}:f"], options={"guards.slow": 0.2}, heard=heard)
    assert len(notes) >= 2 and "'r.py:f' has not come back for 0.2 s (8 rows)" in notes[0] and "0.4 s" in notes[1]
    fault("rewards", f"a function ({kind}) that does not come back", "told while it is waited for; Ctrl-C, --resume")


def test_never_a_right_answer(tmp_path: Path, fault: Fault) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "{n}=", "answer": "a{n}"}}\n' for n in range(100, 104)))
    options = {"rollout.max_tokens": 8, "guards.unsolved": 4, "guards.truncated": 1.0}
    run("grpo", tmp_path, steps=6, data=data, options=options)
    (told,) = named(tmp_path, "no response was ever right")
    assert told["step"] == 4 and told["numbers"] == {"steps": 4, "responses": 32}
    fault(
        "rewards",
        "data of which no answer is ever right",
        "a warning after guards.unsolved steps, once",
        str(told["numbers"]),
    )
