"""`rekindle data check`: what it counts, what it warns of, what it refuses with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.survey import odd_characters, survey
from rekindle.train.datareport import share, spread_of
from tests.cli.folders import llama_folder, rekindle


def jsonl(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def checked(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> dict[str, Any]:
    """The report of `rekindle data check ARGS --json`."""
    ended = rekindle(capsys, "data", "check", *args, "--json")
    assert ended.code == code, ended.err
    assert ended.err.count("\n") == (1 if code else 0)
    return json.loads(ended.out)


GOOD = [{"question": f"{i} and {i}?", "answer": f"so\n#### {2 * i}", "level": i} for i in range(10, 30)]


def test_sound_data_is_described(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *GOOD)
    report = checked(capsys, path)
    facts = report["facts"]
    assert (facts["rows"], facts["layout"], facts["grading"]) == (20, "gsm8k", "exact")
    assert facts["columns"] == {"question": {"a text": 20}, "answer": {"a text": 20}, "level": {"an integer": 20}}
    assert facts["prompt characters"] == {"least": 10, "median": 10, "95 %": 10, "greatest": 10}
    assert (facts["label-free share"], facts["references"], facts["references that fail"]) == (0.0, 20, 0)
    assert report["warnings"] == report["refusals"] == []
    ended = rekindle(capsys, "data", "check", path)
    assert ended.code == 0 and ended.err == ""
    assert "column level" in ended.out and "an integer 20" in ended.out and "label-free share" in ended.out
    assert "0.0 %" in ended.out and "warning" not in ended.out


def test_what_to_be_warned_of_is_named_by_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    odd = {"question": "a\u200bb?", "answer": "#### 1"}
    twice = {"question": "10 and 10?", "answer": "#### 21"}
    path = jsonl(tmp_path / "a.jsonl", *GOOD, GOOD[3], twice, odd, {"question": "free?", "answer": None})
    held = jsonl(tmp_path / "held.jsonl", GOOD[1], {"question": "new?", "answer": "#### 2"})
    report = checked(capsys, path, "--heldout", held)
    facts = report["facts"]
    assert (facts["duplicates"], facts["conflicts"], facts["label-free share"]) == (2, 1, 1 / 24)
    assert (facts["heldout rows"], facts["held-out prompts in train"]) == (2, 1)
    assert report["warnings"] == [
        "rows that repeat an earlier prompt: 2 (line 21 repeats line 4; line 22 repeats line 1)",
        "prompts that come again with another answer: 1 (line 22 and line 1)",
        "prompts with characters that a reader does not see: 1 (line 23: U+200B ZERO WIDTH SPACE)",
        "held-out prompts that are training prompts too: 1 (line 1 is line 2 of the training data)",
    ]
    assert report["refusals"] == []


def test_every_row_that_a_run_would_refuse_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = ['{"prompt": ', {"promt": "x"}, {"prompt": ""}, {"prompt": "p", "answer": [1]}]
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "ok", "answer": "1", "id": 1}, *bad, {"prompt": "q", "id": "1"})
    report = checked(capsys, path, code=2)
    assert report["facts"]["rows"] == 6
    unread, same = report["refusals"]
    assert unread.startswith(f"rows that cannot be read: 4 ({path}, line 2: invalid JSON")
    assert unread.endswith("; ...)") and f"{path}, line 3: no 'prompt' (columns: 'promt')" in unread
    assert same == "rows whose id another row has: 1 (line 6: '1')"
    ended = rekindle(capsys, "data", "check", path)
    assert ended.code == 2 and "refused: rows that cannot be read: 4" in ended.out
    assert ended.err == (
        f"rekindle: {path}: a run on this data would be refused: repair what the report calls refused\n"
    )


def test_references_are_tried_by_the_grading_that_is_chosen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"prompt": str(i), "answer": a} for i, a in enumerate("ABC" * 7 + "7")))
    report = checked(capsys, path, "--grade", "choice")
    assert report["facts"]["references that fail"] == 1
    assert report["warnings"] == [
        "references that 'choice' cannot grade, so that their rows would be left out: 1 (line 22: '7')"
    ]
    few = jsonl(tmp_path / "few.jsonl", *({"prompt": str(i), "answer": a} for i, a in enumerate("ABC7")))
    refused = checked(capsys, few, "--grade", "choice", code=2)["refusals"]
    assert refused == [
        "1 of 4 references cannot be graded by 'choice', and a run accepts 5%: repair these rows, or choose another "
        "--grade"
    ]
    numbers = jsonl(tmp_path / "b.jsonl", {"prompt": "p", "answer": "7"})
    assert (
        "no reference can be graded by 'choice'" in checked(capsys, numbers, "--grade", "choice", code=2)["refusals"][0]
    )
    schema = jsonl(tmp_path / "c.jsonl", {"prompt": "p", "schema": {"type": "object"}})
    assert checked(capsys, schema, "--grade", "json")["facts"]["references"] == 1
    free = jsonl(tmp_path / "d.jsonl", {"prompt": "p"})
    assert "no row has an answer" in checked(capsys, free)["warnings"][0]


def test_tokens_are_counted_by_the_models_tokenizer_without_its_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = llama_folder(tmp_path / "model")
    for weights in model.glob("*.safetensors"):
        weights.write_bytes(b"no weights")
    rows = [{"prompt": "x" * n, "solution": r"\boxed{1}" + " " * n} for n in (5, 20, 40)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    report = checked(capsys, path, "--model", model, "--max-tokens", "32", code=2)
    facts = report["facts"]
    assert (facts["context"], facts["max_tokens"]) == (64, 32)
    assert facts["prompt tokens"]["least"] == 5 and facts["prompt tokens"]["greatest"] == 40
    assert facts["prompts without room"] == 1 / 3
    assert "1 of 3 prompts leave no room for 32 tokens in the model's context of 64" in report["refusals"][0]
    assert facts["solutions cut"] == 1 / 3 and "33.3 % of the written solutions" in report["warnings"][0]
    assert checked(capsys, path, "--model", model, "--max-tokens", "9")["facts"]["prompts without room"] == 0


def test_tasks_are_checked_by_their_own_grading(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("reasoning_gym")
    facts = checked(capsys, "--task", "rg:gcd,size=6,heldout=3,ood=2")["facts"]
    assert (facts["rows"], facts["heldout rows"], facts["ood rows"]) == (6, 3, 2)
    assert (facts["references"], facts["references that fail"], facts["held-out prompts in train"]) == (6, 0, 0)
    facts = checked(capsys, "--task", "digit_sum")["facts"]
    assert facts["references that fail"] == 0 and facts["references"] == facts["rows"] == 40


def test_a_folder_is_checked_with_its_split_and_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", {"q": "1?", "gold": "1"}, {"q": "2?", "gold": "2"})
    jsonl(tmp_path / "test.jsonl", {"q": "1?", "gold": "1"})
    flags = ("--prompt", "q", "--answer", "gold", "--heldout", f"{tmp_path}:test")
    report = checked(capsys, tmp_path, *flags)
    assert (report["facts"]["rows"], report["facts"]["held-out prompts in train"]) == (2, 1)
    assert "test.jsonl, line 1 is train.jsonl, line 1 of the training data" in report["warnings"][0]
    assert checked(capsys, tmp_path, *flags[:4], "--split", "test")["facts"]["rows"] == 1


def test_what_a_run_refuses_of_heldout_data_is_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = llama_folder(tmp_path / "model")
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "answer": "7"})
    rows = [{"prompt": "x" * 40, "answer": "1", "id": "a"}, {"prompt": "y", "answer": "2", "id": "a"}]
    held = jsonl(tmp_path / "held.jsonl", *rows)
    report = checked(capsys, path, "--heldout", held, "--model", model, "--max-tokens", "32", code=2)
    assert report["refusals"] == [
        "held-out rows whose id another row has: 1 (line 2: 'a')",
        "1 of 2 held-out prompts leave no room for 32 tokens in the model's context of 64: shorten or drop them, or "
        "give a smaller --max-tokens",
    ]
    assert report["facts"]["held-out prompts without room"] == 1 / 2 and report["facts"]["held-out references"] == 2
    (same,) = checked(capsys, path, "--heldout", tmp_path / "model" / ".." / "a.jsonl", code=2)["refusals"]
    assert "which the run trains on" in same
    four = {f"Incorrect Answer {n}": f"no {n}" for n in (1, 2, 3)}
    choice = jsonl(tmp_path / "gpqa.jsonl", {"Question": "q?", "Correct Answer": "yes", **four})
    refused = checked(capsys, path, "--heldout", choice, code=2)["refusals"]
    assert "data_heldout is laid out as 'gpqa', which needs grading.by=choice" in refused[0]
    letters = jsonl(tmp_path / "l.jsonl", {"prompt": "l", "answer": "B"})
    refused = checked(capsys, letters, "--heldout", held, "--grade", "choice", code=2)["refusals"]
    assert "no held-out reference can be graded by 'choice': choose another --grade" in refused
    free = jsonl(tmp_path / "free.jsonl", {"prompt": "f"})
    assert "no held-out row has an answer" in checked(capsys, path, "--heldout", free)["warnings"][0]


def test_solutions_that_state_no_answer_are_counted_and_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prose = {"question": "why?", "answer": "It is 4."}
    path = jsonl(tmp_path / "a.jsonl", *GOOD, prose)
    held = jsonl(tmp_path / "b.jsonl", {"question": "z?", "answer": "#### 1"}, {**prose, "question": "how?"})
    report = checked(capsys, path, "--heldout", held)
    assert (report["facts"]["references"], report["facts"]["label-free share"]) == (20, 1 / 21)
    told = "whose written solution states no answer (no box, no ####), so that they count as rows without one: 1"
    assert report["warnings"] == [f"rows {told} (line 21)", f"held-out rows {told} (line 2)"]


def test_rewards_are_tried_with_the_columns_of_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = "def f(completions, level): raise ValueError\ndef g(completions, levle): pass\ndef h(completions): pass\n"
    (tmp_path / "r.py").write_text(code)
    rows = [{"prompt": str(i), "answer": [i], "tests": {"n": i}} for i in range(3)]
    path = jsonl(tmp_path / "a.jsonl", *rows, {"prompt": "x", "level": 1})
    held = jsonl(tmp_path / "b.jsonl", {"prompt": "y", "answer": "1"})
    assert "rows that cannot be read: 3" in checked(capsys, path, code=2)["refusals"][0]
    report = checked(capsys, path, "--reward", f"{tmp_path / 'r.py'}:f", "--heldout", held)
    assert (report["facts"]["grading"], report["facts"]["rewards"]) == ("rewards", "r.py:f")
    assert "references" not in report["facts"] and report["warnings"] == report["refusals"] == []
    (refused,) = checked(capsys, path, "--reward", f"{tmp_path / 'r.py'}:g", code=2)["refusals"]
    assert "parameter 'levle' is no column of the data" in refused
    free = jsonl(tmp_path / "free.jsonl", {"prompt": "x"})
    assert checked(capsys, free, "--reward", f"{tmp_path / 'r.py'}:h")["warnings"] == []
    pairs = jsonl(tmp_path / "c.jsonl", {"prompt": "x", "completion": "y", "answer": "1"})
    assert checked(capsys, pairs)["refusals"] == []
    (refused,) = checked(capsys, pairs, "--reward", f"{tmp_path / 'r.py'}:h", code=2)["refusals"]
    assert "the data column 'completion' collides with an argument: rename the column" in refused


def test_a_prompt_is_the_same_as_a_text_and_as_a_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ask = {"role": "user", "content": "1+1?"}
    system = {"role": "system", "content": "Think."}
    forms: list[Any] = ["1+1?", [ask], [system, ask]]
    for n, train in enumerate(forms):
        for k, held in enumerate(forms):
            first = jsonl(tmp_path / f"t{n}{k}.jsonl", {"prompt": train, "answer": "2"})
            second = jsonl(tmp_path / f"h{n}{k}.jsonl", {"prompt": held, "answer": "2"})
            assert checked(capsys, first, "--heldout", second)["facts"]["held-out prompts in train"] == 1
    talk = [ask, {"role": "assistant", "content": "2"}, ask]
    path = jsonl(tmp_path / "d.jsonl", *({"prompt": p, "answer": "2"} for p in [*forms, talk]))
    assert checked(capsys, path)["facts"]["duplicates"] == 1, "a system message makes another conversation"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        *(
            (["--task", "reduce", *flag], f"{flag[0]} is for data of your own, and --task has its own: drop one")
            for flag in (
                *(["--heldout", "a.jsonl"], ["--grade", "math"], ["--layout", "trl"], ["--config", "c"]),
                *(["--split", "test"], ["--prompt", "q"], ["--answer", "a"], ["--reward", "r.py:f"]),
            )
        ),
        ([], "name one thing to check"),
        (["a.jsonl", "--task", "reduce"], "name one thing to check"),
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--task", "rg:chain_sun"], "did you mean 'chain_sum'"),
        (["a.jsonl", "--grade", "exakt"], "unknown way of grading 'exakt': did you mean 'exact'"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(
    capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    ended = rekindle(capsys, "data", "check", *args)
    assert ended.code == 2 and words in ended.err and ended.err.count("\n") == 1 and ended.out == ""


def test_the_numbers_of_a_report() -> None:
    assert spread_of([]) == {}
    assert spread_of(list(range(1, 101))[::-1]) == {"least": 1, "median": 50, "95 %": 95, "greatest": 100}
    assert (share(1, 4), share(0, 0)) == (0.25, 0.0)
    assert odd_characters("plain\ttext\nü") == []
    assert odd_characters("a\ufffd\u200b\x00") == [
        "U+0000 unnamed",
        "U+200B ZERO WIDTH SPACE",
        "U+FFFD REPLACEMENT CHARACTER",
    ]
    chat = [("a", {}, Example("1", "q", None, {"messages": [{"role": "user", "content": c}]})) for c in "xy"]
    assert survey(chat).duplicates.count == 0, "conversations are compared whole"


def test_responses_that_the_data_brings_are_counted_and_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pairs = [{"prompt": f"{i}+1", "chosen": "1" * i, "rejected": "no"} for i in range(1, 8)]
    held = jsonl(tmp_path / "held.jsonl", {"problem": "p", "solution": "so \\boxed{1}"})
    path, model = jsonl(tmp_path / "a.jsonl", *pairs), llama_folder(tmp_path / "llama")
    report = checked(capsys, path, "--heldout", held, "--model", model, "--max-tokens", "9")
    facts = report["facts"]
    assert (facts["layout"], facts["rows"], facts["responses"]) == ("preference", 7, 14)
    assert facts["chosen characters"] == {"least": 1, "median": 4, "95 %": 6, "greatest": 7}
    assert facts["rejected tokens"]["least"] >= 1 and facts["chosen tokens"].keys() == facts["rejected tokens"].keys()
    assert facts["grading"] == "math", "as the held-out rows ask"
    assert report["warnings"] == report["refusals"] == []
    cut = checked(capsys, path, "--model", model, "--max-tokens", "2")
    assert any("of the responses have more than 2 tokens, the end token counted" in said for said in cut["warnings"])


def test_scored_responses_are_gathered_and_their_faults_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"{i // 2}+1", "completion": "a" * (i + 1), "reward": i % 2, "id": i // 2} for i in range(6)
    ]
    facts = checked(capsys, jsonl(tmp_path / "a.jsonl", *rows))["facts"]
    assert (facts["layout"], facts["rows"], facts["prompts"], facts["responses"]) == ("scored", 6, 3, 6)
    assert facts["rewards"] == {"least": 0.0, "median": 0.0, "95 %": 1.0, "greatest": 1.0}
    assert (facts["duplicates"], facts["label-free share"]) == (0, 1.0)
    bad = [{**rows[0], "completion": ""}, {**rows[1], "answer": "5"}]
    report = checked(capsys, jsonl(tmp_path / "b.jsonl", *rows, *bad), code=2)
    assert [told.partition(":")[0] for told in report["refusals"]] == [
        "rows that cannot be read",
        "prompts that come again with another answer",
    ]
    same = [{**row, "reward": 1} for row in rows]
    (told,) = checked(capsys, jsonl(tmp_path / "c.jsonl", *same), code=2)["refusals"]
    assert "all 6 rewards are 1" in told
