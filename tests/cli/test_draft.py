"""`draft make`, `align` and `measure`, from a target to a draft and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.tokens.draft_model import build_draft, save_draft
from rekindle.tokens.loader import load_model
from tests.cli.folders import rekindle
from tests.tiny_models import build, tokenizer

MAKE = ["draft", "make", "--target", "embedded", "--task", "digit_sum", "--prompts", "6", "--batch", "4"]
MEASURE = ["draft", "measure", "--target", "embedded", "--task", "digit_sum", "--samples", "3", "--max-tokens", "4"]


def test_a_draft_from_nothing_to_its_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "draft"
    few = [
        "--pretrain-steps",
        "2",
        "--kld-steps",
        "1",
        "--tvdpp-steps",
        "1",
        "--temperature",
        "0",
        "--temperature",
        "1",
    ]
    made = rekindle(capsys, *MAKE, *few, "--out", out)
    assert made.code == 0, made.err
    lines = made.out.splitlines()
    assert lines[0] == "draft: 14432 parameters of 55424 of the target"
    assert lines[1].startswith("answers: ") and lines[-1] == f"draft: {out / 'by_tvdpp' / 'final'}"
    assert [line.split(":")[0] for line in lines[2:-1]] == ["pretrained", "by_kld", "by_tvdpp"]
    assert "nll" in lines[2] and "acceptance" in lines[3]
    few = rekindle(capsys, *MEASURE, "--draft", out / "by_tvdpp", "--same-law", "5")
    assert few.code == 2 and "--same-law 5 has too few answers a prompt" in few.err
    measured = rekindle(capsys, *MEASURE, "--draft", out / "by_tvdpp", "--json")
    assert measured.code == 0, measured.err
    found = json.loads(measured.out)
    assert 1 <= found["tau"] <= 4 and 0 < found["acceptance"] < 1 and found["share"] == pytest.approx(14432 / 55424)
    assert {"mbsu", "speedup", "expected", "tokens", "calls", "ended"} <= set(found)
    more = ["--data", out / "answers.jsonl", "--kld-steps", "0", "--tvdpp-steps", "1"]
    target = Path(found_target(out))
    aligned = rekindle(
        capsys, "draft", "align", "--target", target, "--draft", out / "by_kld", *more, "--out", tmp_path / "more"
    )
    assert aligned.code == 0, aligned.err
    assert aligned.out.splitlines()[-1] == f"draft: {tmp_path / 'more' / 'by_tvdpp' / 'final'}"
    again = rekindle(capsys, *MAKE, "--out", out)
    assert again.code == 2 and "is not empty" in again.err


def found_target(out: Path) -> str:
    """The target's folder, as the runs name it."""
    text = (out / "by_kld" / "run.toml").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("teacher"))


def test_a_draft_of_other_tokens_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    ended = rekindle(capsys, *MEASURE, "--draft", tmp_path)
    assert ended.code == 2 and "has another tokenizer than the target" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_a_draft_with_less_room_than_the_answers_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = load_model("embedded", task_name="digit_sum")
    small = build_draft(target, None, None, seed=0)
    small.config.max_position_embeddings = 5
    save_draft(small, target, tmp_path)
    ended = rekindle(capsys, *MEASURE, "--draft", tmp_path)
    assert ended.code == 2 and "--max-tokens=4 exceeds the model's context of 5" in ended.err
