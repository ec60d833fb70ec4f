"""The grader: what needs a worker and what does not, statuses, the memory, ranks, and the check of references."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rekindle.core.ranks import Alone
from rekindle.errors import EngineDead, InputError
from rekindle.tokens.grading.base import STATUSES, Grade
from rekindle.tokens.grading.grader import Grader, shared
from rekindle.tokens.grading.memory import Memory
from rekindle.tokens.grading.pool import Outcome
from rekindle.tokens.grading.selfcheck import MOST, refuse_unsound, self_check
from rekindle.tokens.rollouts import Example

TOWER = "9^{9^{9^9}}"


@pytest.fixture(scope="module")
def math() -> Iterator[Grader]:
    made = Grader("math", "boxed", deadline=5.0)
    yield made
    made.close()


def rows(grader: Grader, texts: Sequence[str], reference: str | None) -> list[Grade]:
    return grader.grade_rows(texts, [Example(str(i), "p", reference) for i in range(len(texts))])


@dataclass
class Counting:
    """Stands in the pool's place: what was asked of it, and how each call ends."""

    told: dict[str, list[Outcome]]
    asked: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def map(self, target: str, calls: Sequence[tuple[Any, ...]], deadline: float | None = None) -> list[Outcome]:
        self.asked += [(target.rpartition(":")[2], call) for call in calls]
        return [self.told[target.rpartition(":")[2]].pop(0) for _ in calls]

    def close(self) -> None:
        self.asked.append(("close", ()))


def counting(by: str = "math", **told: list[Outcome]) -> tuple[Grader, Counting]:
    grader, pool = Grader(by, "boxed"), Counting(told)
    grader.pool = pool  # type: ignore[assignment]
    return grader, pool


def said(success: bool | None, **more: Any) -> Outcome:
    return Outcome({"success": success, **more}, "ok")


def test_equal_texts_and_numbers_need_no_worker() -> None:
    grader, pool = counting()
    grades = rows(grader, [r"\boxed{1/2}", r"\boxed{0.50}", r"\boxed{\frac{2}{4}}", "nothing"], r"\frac{1}{2}")
    assert [g.success for g in grades] == [True, True, True, False] and grades[3].status == "no_answer"
    assert pool.asked == [], "2/4 and 0.50 are 1/2 by value"
    assert rows(grader, [r"\boxed{7}"], None)[0] == Grade(None, "reference_invalid", "7")


def test_a_pair_is_asked_once_and_remembered() -> None:
    grader, pool = counting(same=[said(True, by="math"), said(False, by="math")])
    grades = rows(grader, [r"\boxed{a}", r"\boxed{b}", r"\boxed{a}"], "c")
    assert [g.success for g in grades] == [True, False, True] and len(pool.asked) == 2
    assert rows(grader, [r"\boxed{b}", r"\boxed{a}"], "c") == [grades[1], grades[0]] and len(pool.asked) == 2
    assert pool.asked[0] == ("same", ("c", "a")), "the reference comes first: the comparison is not symmetric"


LATE, DEAD = Outcome("late", "timeout"), Outcome("dead", "died")


def test_a_time_out_is_the_answers_unless_the_reference_hangs_alone() -> None:
    grader, pool = counting(same=[LATE, LATE], check=[said(True), LATE])
    assert rows(grader, [r"\boxed{a}"], "c") == [Grade(False, "timeout", "a", {"why": "late"})]
    assert rows(grader, [r"\boxed{a}"], "d")[0].status == "reference_invalid"
    assert [name for name, _ in pool.asked] == ["same", "check", "same", "check"]


def test_a_worker_that_dies_is_asked_again() -> None:
    grader, _ = counting(same=[DEAD, said(True)])
    assert rows(grader, [r"\boxed{a}"], "c")[0].success is True
    grader, _ = counting(same=[DEAD, DEAD], check=[said(True)])
    assert rows(grader, [r"\boxed{a}"], "c")[0].status == "timeout", "the answer breaks what grades it"
    grader, _ = counting(same=[DEAD, DEAD], check=[DEAD])
    assert rows(grader, [r"\boxed{a}"], "c")[0].status == "reference_invalid"


def test_what_raises_is_a_wrong_answer_of_mathematics_and_a_failure_of_our_own_checkers() -> None:
    raised = Outcome("ValueError", "raised")
    assert rows(counting(same=[raised])[0], [r"\boxed{a}"], "c")[0] == Grade(False, "ok", "a", {"why": "ValueError"})
    grade = rows(counting("json", valid=[raised])[0], ["{}"], "{}")[0]
    assert grade.success is None and grade.status == "infra_error"
    assert rows(counting("json", valid=[said(None, why="x")])[0], ["{}"], "{}")[0].status == "reference_invalid"


def test_a_grade_says_nothing_that_its_status_denies() -> None:
    for status in STATUSES:
        ungraded = status in ("reference_invalid", "infra_error")
        Grade(None if ungraded else False, status)
        with pytest.raises(ValueError, match="cannot have"):
            Grade(False if ungraded else None, status)
        if status != "ok":
            with pytest.raises(ValueError, match="cannot have"):
                Grade(True, status)
    assert Grade.of(None, "x").status == "reference_invalid" and Grade.of(False, None).status == "no_answer"


def test_memory_is_bounded_and_believes_the_second_time_out() -> None:
    memory = Memory(2)
    for key in "abc":
        memory.put(key, Grade(True, "ok", key))
    assert memory.get("a") is None and memory.get("b") is not None and len(memory) == 2
    memory.put("d", Grade(True, "ok", "d"))
    assert memory.get("c") is None and memory.get("b") is not None, "the least recently used goes first"
    late = Grade(False, "timeout", "e")
    memory.put("e", late)
    assert memory.get("e") == late
    memory.fresh()
    assert memory.get("e") is None, "it may have been the machine"
    memory.put("e", late)
    memory.fresh()
    assert memory.get("e") == late
    memory.put("f", Grade(None, "infra_error"))
    assert memory.get("f") is None
    nothing = Memory(0)
    nothing.put("a", Grade(True, "ok"))
    assert nothing.get("a") is None and len(nothing) == 0


def test_mathematics_in_real_workers(math: Grader) -> None:
    texts = [r"\boxed{\sqrt{12}}", rf"\boxed{{{TOWER}}}", r"\boxed{5=2\sqrt{3}}", r"\boxed{2}", "no"]
    grades = rows(math, texts, r"2\sqrt{3}")
    assert [g.success for g in grades] == [True, False, False, False, False]
    assert [g.status for g in grades] == ["ok", "timeout", "ambiguous", "ok", "no_answer"]
    assert rows(math, [r"\boxed{7}"], TOWER)[0].status == "reference_invalid"
    assert rows(math, texts[:1], r"2\sqrt{3}")[0].success is True


def test_choice_and_exact_need_no_worker() -> None:
    grader = Grader("choice", "choice")
    grades = rows(grader, ["Answer: B", "(b) B", r"\boxed{c}", "Answer: A or B", "hm"], "(B)")
    assert [g.success for g in grades] == [True, False, False, False, False]
    assert [g.status for g in grades][2:] == ["ok", "ambiguous", "no_answer"]
    assert rows(grader, ["Answer: B"], "apple")[0].status == "reference_invalid"
    exact = Grader("exact", "hash")
    assert [g.success for g in rows(exact, ["#### 1,234.", r"\boxed{1234}", "#### 5"], "1234")] == [True, False, False]
    assert not grader.pool._threads and not exact.pool._threads  # type: ignore[attr-defined]


def test_programs_and_json_in_real_workers() -> None:
    code = Grader("code", "boxed", deadline=30.0)
    code.refuse_unsafe()
    program = "```python\ndef f(x):\n    return {}\n```"
    grades = rows(
        code, [program.format("x + 1"), program.format("2"), "none"], '["assert f(1) == 2", "assert f(2) == 3"]'
    )
    code.close()
    assert [g.success for g in grades] == [True, False, False] and [g.info.get("share") for g in grades] == [
        1,
        0.5,
        None,
    ]
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}})
    typed = Grader("json", "boxed", deadline=30.0)
    grades = rows(typed, ['{"a": 1}', '{"a": 1, "b": 2}', "```json\n{}\n```\n```json\n{}\n```"], schema)
    typed.close()
    assert [g.success for g in grades] == [True, False, False] and grades[2].status == "ambiguous"


def test_programs_are_refused_where_they_cannot_be_cut_off() -> None:
    grader, pool = counting("code", shut_off=[Outcome({"net": True, "pid": False, "files": True}, "ok")])
    with pytest.raises(InputError, match=r"grading.by=code is refused: .* from other processes: allow unshare"):
        refuse_unsound(grader, [Example("a", "p", '["assert f(1) == 2"]')])
    assert pool.asked[-1] == ("close", ())
    counting("math")[0].refuse_unsafe()


def test_options_that_do_not_go_together_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"grading.extract=hash does not go with grading.by=code"):
        Grader("code", "hash")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "math_verify" else there(n))
    with pytest.raises(InputError, match=r"pip install 'rekindle\[math\]'"):
        Grader("math", "boxed")


class Meeting:
    """Ranks that are threads."""

    def __init__(self, count: int) -> None:
        self.barrier, self.told = threading.Barrier(count), [None] * count

    def exchange(self, index: int, value: Any) -> list[Any]:
        self.told[index] = value
        self.barrier.wait(30)
        out = list(self.told)
        self.barrier.wait(30)
        return out


@dataclass
class Rank:
    meeting: Meeting
    index: int
    count: int

    def exchange(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.index, value)


def on_ranks(count: int, work: Callable[[Rank], Any]) -> list[Any]:
    """What `work` gives or raises on each of `count` ranks."""
    meeting, out = Meeting(count), [None] * count

    def one(index: int) -> None:
        try:
            out[index] = work(Rank(meeting, index, count))
        except Exception as error:
            out[index] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_share_the_work_and_agree(count: int) -> None:
    texts = [rf"\boxed{{{i}x}}" for i in range(5)] + [r"\boxed{7}", r"\boxed{0x}"]
    made = [counting(same=[said(i % 2 == 0) for i in range(9)]) for _ in range(count)]
    examples = [Example(str(i), "p", "7") for i in range(len(texts))]
    got = on_ranks(count, lambda rank: made[rank.index][0].grade_rows(texts, examples, rank))
    assert all(grades == got[0] for grades in got) and got[0][5].success is True
    asked = [call[1] for _, pool in made for _, call in pool.asked]
    assert sorted(asked) == sorted(f"{i}x" for i in range(5)), "each distinct pair by one rank"
    again = on_ranks(count, lambda rank: made[rank.index][0].grade_rows(texts, examples, rank))
    assert again == got and sum(len(pool.asked) for _, pool in made) == 5


def test_a_reference_that_failed_before_the_run_is_left_out_by_all_ranks() -> None:
    made = [counting(check=[said(i == 0) for i in (rank, 0)], same=[said(True)] * 4) for rank in range(2)]
    examples = [Example("good", "p", "c"), Example("bad", "p", "d")]
    failed = on_ranks(2, lambda rank: self_check(made[rank.index][0], examples, rank))
    assert [[f.id for f in one] for one in failed] == [["bad"]] * 2
    got = on_ranks(2, lambda rank: made[rank.index][0].grade_rows([r"\boxed{a}", r"\boxed{a}"], examples, rank))
    assert got[0] == got[1] and [g.status for g in got[0]] == ["ok", "reference_invalid"]


def test_an_error_of_one_rank_is_raised_on_all() -> None:
    def work(items: list[int]) -> list[int]:
        if 1 in items:
            raise EngineDead("one is gone")
        return items

    told = on_ranks(2, lambda rank: shared([0, 1, 2], work, rank))
    assert [str(error) for error in told] == ["one is gone"] * 2
    assert shared([3, 4], work, Alone()) == [3, 4] and shared([], work, Alone()) == []


def test_references_are_tried_before_a_run(math: Grader) -> None:
    answers = ["1/2", TOWER, r"\sqrt{2}", None, "east"] + ["7"] * 40
    examples = [Example(f"row-{i}", "p", answer) for i, answer in enumerate(answers)]
    failures = self_check(math, examples)
    assert [(f.id, f.reference) for f in failures] == [("row-1", TOWER)] and "5 s" in failures[0].why
    assert refuse_unsound(math, examples) == failures, "one in forty-five may fail"
    assert rows(math, [r"\boxed{2}"], TOWER)[0].status == "reference_invalid", "and it judges nobody"
    exact = Grader("choice", "choice")
    wrong = [Example(f"row-{i}", "p", "apple" if i < 4 else "A") for i in range(10)]
    with pytest.raises(InputError, match=r"cannot use the reference of 'row-0' .*'row-2' .* and 1 more: repair"):
        refuse_unsound(exact, wrong)
    many = [Example(str(i), "p", "A") for i in range(3 * MOST)]
    assert self_check(exact, many) == []
