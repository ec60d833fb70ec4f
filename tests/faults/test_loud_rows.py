"""Rows that are not what their ids say, end too early, say nothing, all say the same, or are never graded."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import GuardStop, Stopped
from rekindle.tokens.grading.base import Grade
from rekindle.tokens.grading.grader import Grader
from rekindle.tokens.labels import MajorityVote
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train.events import read_events, timeless
from rekindle.train.update import updated
from tests.faults.conftest import Fault
from tests.faults.runs import method_file, named, run, warnings

TWIN = """
def twice(batch, run):
    if run.step_index != 1:
        return batch
    ids = batch.{name}.clone()
    ids[5] = ids[2]
    return replace(batch, {name}=ids)

def method():
    return grpo.method().replace(source=(twice,))
"""
NOTHING = """
def nothing(batch, run):
    return batch.take(torch.zeros(0, dtype=torch.int64))

def method():
    return grpo.method().replace(source=(nothing,))
"""
IDS = (
    ("a uid twice", TWIN.format(name="uid"), r"step 1: uid 10 stands more than once in the batch \(1 such uids\)"),
    (
        "one group of two prompts",
        TWIN.format(name="group"),
        r"step 1: group 2 holds rows of 2 different prompts \(5 of 8",
    ),
    ("no rows at all", NOTHING, r"step 0: the batch has no rows: nothing was sampled"),
)


@pytest.mark.parametrize(("what", "code", "said"), IDS, ids=[what for what, *_ in IDS])
def test_rows_that_cannot_be_stop_the_run(tmp_path: Path, fault: Fault, what: str, code: str, said: str) -> None:
    with pytest.raises(GuardStop, match=said) as stop:
        run(method_file(tmp_path, code), tmp_path)
    fault("numbers", f"a method's source gives a batch with {what}", "GuardStop that names it", str(stop.value))


def sampled_as(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Have the local sampler's rollouts changed by `change`."""
    real = LocalSampler.sample
    monkeypatch.setattr(LocalSampler, "sample", lambda self, *args, **kw: change(real(self, *args, **kw)))


def test_responses_that_are_cut_off(tmp_path: Path, fault: Fault) -> None:
    run("grpo", tmp_path, options={"rollout.max_tokens": 1})
    (told,) = named(tmp_path, "responses were cut off")
    share = told["numbers"]["share"]
    assert told["step"] == 1 and share > 0.5 and told["numbers"]["max_tokens"] == 1
    fault(
        "rewards", "rollout.max_tokens is too small", "one warning with the share and the option", str(told["numbers"])
    )


def test_responses_without_a_text(tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    def mute(rollouts):
        rollouts.text[:] = [""] * 7 + rollouts.text[7:]
        return rollouts

    sampled_as(monkeypatch, mute)
    run("grpo", tmp_path)
    (told,) = named(tmp_path, "responses are empty")
    assert told["numbers"] == {"share": 7 / 8, "limit": 0.5, "count": 7, "of": 8}
    fault("rewards", "7 of 8 responses are empty", "one warning with the share", str(told["numbers"]))


def test_responses_that_are_all_the_same(tmp_path: Path, fault: Fault) -> None:
    run("grpo", tmp_path, options={"rollout.temperature": 1e-4, "guards.gap": 1.0})
    (told,) = named(tmp_path, "all responses of a group are the same")
    assert told["step"] == 1 and told["numbers"]["of"] == 2 and "rollout.temperature" in told["remedy"]
    fault("rewards", "rollout.temperature is next to 0", "one warning with the share", str(told["numbers"]))


def rows(path: Path, *pairs: tuple[str, str]) -> Path:
    """A data file of (prompt, answer)."""
    path.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in pairs))
    return path


def test_votes_without_an_answer(tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = MajorityVote.__call__

    def say_nothing(rollouts):
        rollouts.text[:] = ["no idea"] * len(rollouts)
        return rollouts

    def vote(self, rollouts, verifier):
        seen.append(real(self, rollouts, verifier))
        return seen[-1]

    sampled_as(monkeypatch, say_nothing)
    monkeypatch.setattr(MajorityVote, "__call__", vote)
    data = rows(tmp_path / "rows.jsonl", *((f"{n}=", str(n)) for n in range(100, 104)))
    run("ttrl", tmp_path, data=data, options={"rollout.max_tokens": 8, "guards.truncated": 1.0})
    assert all(not v.success.any() and set(v.vote.values()) == {None} and v.graded.all() for v in seen)
    (told,) = named(tmp_path, "votes had no answer")
    assert told["numbers"]["count"] == told["numbers"]["of"] == 2
    fault("rewards", "no response states an answer to vote for", "no success, one warning", str(told["numbers"]))


@pytest.mark.parametrize(("status", "what"), [("infra_error", "the grader itself failed"), ("reference_invalid", "")])
def test_rows_that_are_not_graded(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, status: Any, what: str
) -> None:
    data = rows(tmp_path / "rows.jsonl", *((f"{n}=", str(n)) for n in (100, 101)))

    def grade(self, texts, examples, ranks):
        return [Grade(None, status, "1") if e.prompt == "100=" else Grade(False, "ok", "1") for e in examples]

    monkeypatch.setattr(Grader, "grade_rows", grade)
    options = {"rollout.max_tokens": 8, "grading.extract": "any", "guards.truncated": 1.0, "guards.ungraded": 0.4}
    run("grpo", tmp_path, steps=4, data=data, options=options)
    told = {record["what"]: record for record in warnings(tmp_path)}
    assert told["responses were not graded"]["numbers"]["share"] == 0.5
    never = told["prompts are never graded"]
    assert (never["step"], never["numbers"]["prompts"]) == (3, 1), "after three visits"
    assert what == "" or told[what]["numbers"]["share"] == 0.5
    assert len(told) == (3 if what else 2) == len(warnings(tmp_path))
    does = "warnings with the shares; the prompt is named after guards.visits visits"
    fault("rewards", f"every grade of one prompt is {status}", does, str(never["numbers"]))


def test_prompts_that_stand_twice_with_different_answers(tmp_path: Path, fault: Fault) -> None:
    data = rows(tmp_path / "rows.jsonl", ("1+1=", "2"), ("1+1=", "3"), ("2+2=", "4"), ("2+2=", "4"))
    run("grpo", tmp_path, steps=1, data=data, options={"rollout.max_tokens": 4})
    (told,) = named(tmp_path, "prompts stand in the data twice with different answers")
    assert told["step"] == 0 and told["numbers"]["rows"] == 1 and "(2) and" in told["numbers"]["first"]
    fault(
        "rewards",
        "one prompt under two ids with answers 2 and 3",
        "a warning before the first step",
        str(told["numbers"]),
    )


@pytest.mark.parametrize(("method", "warned"), [("grpo", True), ("ttrl", False)])
def test_data_with_a_single_answer(tmp_path: Path, fault: Fault, method: str, warned: bool) -> None:
    data = rows(tmp_path / "rows.jsonl", *((f"{n}+1=", "7") for n in range(8)))
    run(method, tmp_path, steps=1, data=data, options={"rollout.max_tokens": 4})
    found = named(tmp_path, "all rows of the data have one answer")
    assert [f["numbers"] for f in found] == ([{"rows": 8, "answer": "7"}] if warned else [])
    does = "a warning before the first step" if warned else "nothing: the method reads no answer"
    fault("rewards", f"data whose every answer is 7, {method}", does, str([f["numbers"] for f in found]))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupted(record: dict[str, Any]) -> None:
    """Ends the run after its fifth step."""
    if record["kind"] == "step" and record["step"] == 5:
        raise Interrupted


@pytest.mark.parametrize("where", ["between two steps", "between two updates of a step"])
def test_a_resumed_run_tells_the_same(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    options = {"rollout.max_tokens": 1, "guards.unsolved": 3, "empty_steps": 0, "checkpoint.every": 2}
    options |= {"descent.minibatches": 2}
    run("grpo", tmp_path, steps=6, options=options)
    if where == "between two steps":
        with pytest.raises(Interrupted):
            run("grpo", tmp_path / "cut", steps=6, options=options, heard=interrupted)
    else:
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"step 2, .*1 of its updates"):
            patch.setattr("rekindle.train.run.updated", signalled)
            run("grpo", tmp_path / "cut", steps=6, options=options)
    run("grpo", tmp_path / "cut", steps=6, options=options, resume=True)
    whole, again = (told(folder) for folder in (tmp_path, tmp_path / "cut"))
    names = [record["what"] for record in whole if record["kind"] == "warning"]
    assert names == ["responses were cut off", "no response was ever right"] and whole == again
    fault("rewards", f"a run with warnings is cut off {where} and resumed", "the same warnings at the same steps")


def signalled(run: Any, part: Any, method: Any, index: int) -> Any:
    """An update, during the first of step 2 of which SIGTERM arrives."""
    if (run.step_index, index) == (2, 0):
        signal.raise_signal(signal.SIGTERM)
    return updated(run, part, method, index)


def told(folder: Path) -> list[dict[str, Any]]:
    """What a run has recorded, but that it was stopped and went on."""
    records = timeless(read_events(folder / "run" / "events.jsonl"))
    return [record for record in records if record["kind"] not in ("resume", "stop")]
