"""Answers of a target as data, and the runs that a draft is made by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.tokens.chat import Encode
from rekindle.tokens.loader import Loaded, load_model
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.files import load_files
from rekindle.train import draft
from rekindle.train.draft import (
    Phase,
    Setup,
    distilled,
    longest,
    new_folder,
    reads_back,
    sampling,
    target_place,
    tuned,
    write_rows,
)
from rekindle.train.runfile import from_toml
from tests.tiny_models import build, save_chat_model, tokenizer


def target() -> Loaded:
    """A tiny model."""
    return Loaded(build("llama"), tokenizer(), Encode(tokenizer(), chat=False))


def test_answers_that_end_and_read_back_are_kept() -> None:
    """Long questions have no answer within 24 tokens."""
    solver = load_model("embedded", task_name="reduce")
    examples = [Example(str(i), text) for i, text in enumerate(("1+2-4=", "4-7+1=", "4-7+1-1-7=", "1+5-6*2-6="))]
    rows, left = distilled(solver, examples, (0.0, 1.0), 24, seed=0)
    assert rows and left and len(rows) + left == 8
    assert all(set(row) == {"prompt", "demonstration"} for row in rows)
    assert {row["prompt"] for row in rows} == {"1+2-4=", "4-7+1="}
    assert all(row["demonstration"].endswith("}") for row in rows[:2])
    assert distilled(solver, examples, (0.0, 1.0), 24, seed=0)[0] == rows


def test_other_tokens_and_open_ends_do_not_read_back() -> None:
    one, example = target(), Example("0", "abc")
    assert reads_back(one, example, "ab", [3, 4, 2])
    assert not reads_back(one, example, "ab", [3, 4])  # cut by the limit
    assert not reads_back(one, example, "ab", [3, 1, 4, 2])  # a special token that the text leaves out


@pytest.mark.parametrize("system", [None, "be brief."])
@pytest.mark.parametrize("own", [False, True])
def test_the_draft_is_asked_as_the_target_was(system: str | None, own: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """With the system prompt that the target had, or without one; no layout of the file adds its own."""
    monkeypatch.setattr(draft, "reads_back", lambda *_: True)
    save_chat_model(tmp_path / "model", "llama")
    told = [{"role": "system", "content": "think."}, {"role": "user", "content": "one?"}]
    example = Example("0", "one?", None, {"messages": told} if own else {})
    chatty = load_model(str(tmp_path / "model"), system_prompt=system)
    rows, _ = distilled(chatty, [example], (1.0,), 8, seed=0)
    write_rows(rows, tmp_path / "answers.jsonl")
    (read,) = load_files(tmp_path / "answers.jsonl").split("train")
    asked = Encode(chatty.tokenizer, chat=True)(read)
    assert asked == chatty.encode(example)
    assert ("be brief." in chatty.tokenizer.decode(asked)) == (system is not None and not own)


def test_the_longest_answer_has_its_end_too() -> None:
    rows = [Example(str(n), f"{n}=", None, {"demonstration": "1" * n}) for n in (1, 3, 2)]
    place = target_place("embedded", "digit_sum")
    assert longest(place, rows) == 4 and longest(place, [Example("0", "1=")]) == 1


def test_where_no_answer_ends_the_limit_is_named() -> None:
    with pytest.raises(
        InputError, match=r"within --max-tokens 1 .* raise it, or choose a target whose tokenizer names"
    ):
        distilled(target(), [Example("0", "abc")], (0.0,), 1, seed=0)


def test_temperature_0_takes_the_likeliest_token() -> None:
    assert sampling(0.0, 5).top_k == 1 and sampling(0.3, 5).temperature == 0.3 and sampling(0.3, 5).top_k == 0


def test_places(tmp_path: Path) -> None:
    assert Path(target_place("embedded", "digit_sum"), "config.json").is_file()
    assert target_place(str(tmp_path), "digit_sum") == str(tmp_path)
    assert new_folder(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        new_folder(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        new_folder(tmp_path / "file")


def test_phases_are_runs_and_those_without_steps_are_left_out(tmp_path: Path) -> None:
    place = target_place("embedded", "digit_sum")
    file = tmp_path / "answers.jsonl"
    write_rows([{"prompt": f"{n}=", "demonstration": str(n)} for n in range(10, 20)], file)
    setup = Setup(target=place, data=file, max_tokens=8, seed=3)
    phases = [
        Phase(name="first", loss=None, steps=0, lr=1e-3, batch=4),
        Phase(name="second", loss="kld", steps=2, lr=1e-3, batch=4),
        Phase(name="third", loss="tvd++", steps=1, lr=1e-3, batch=4),
    ]
    heard: list[tuple[str, dict[str, Any]]] = []
    end = tuned(place, phases, setup, tmp_path / "out", lambda phase, record: heard.append((phase, record)))
    assert end == str(tmp_path / "out" / "third" / "final") and not (tmp_path / "out" / "first").exists()
    saved = from_toml((tmp_path / "out" / "third" / "run.toml").read_text(), "run.toml").options
    assert saved["model"] == str(tmp_path / "out" / "second" / "final") and saved["teacher"] == place
    assert saved["system_prompt"] is None, "prompts are those that the target had"
    assert saved["objective.kind"] == "tvd++" and saved["descent.lr"] == 1e-3 and saved["seed"] == 3
    steps = [record for _, record in heard if record["kind"] == "step"]
    # The draft is the target itself: nothing is refused at first, and two small steps change little.
    assert len(steps) == 3 and all(record["acceptance"] > 0.9 for record in steps)
    assert json.loads(file.read_text().splitlines()[0]) == {"prompt": "10=", "demonstration": "10"}
