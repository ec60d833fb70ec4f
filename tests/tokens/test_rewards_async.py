"""Async reward functions: at the same time, on one loop for a whole run, with their failures by name."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.tokens.rewards import Rewards, from_trl, from_verl
from rekindle.tokens.rewards.calling import Loop, is_async
from rekindle.tokens.rollouts import Example
from tests.tokens.rewarded import PAIR, refusal, rewards, rollouts


def test_several_async_functions_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)
    order: list[str] = []

    async def one(completions: list[str], **columns: Any) -> list[float]:
        await asyncio.wait_for(both.wait(), 20)
        return [1.0, 2.0]

    async def two(completions: list[str], **columns: Any) -> list[float | None]:
        order.append("async")
        await asyncio.wait_for(both.wait(), 20)
        return [None, 1.0]

    def plain(completions: list[str], **columns: Any) -> list[float]:
        order.append("plain")
        return [0.5, 0.5]

    got = Rewards((from_trl(one), from_trl(two, weight=2.0), from_trl(plain)))(PAIR)
    assert got.score.tolist() == [1.5, 4.5]
    assert order == ["plain", "async"], "plain functions are called first, as in TRL"


def test_rows_of_an_async_verl_function_run_at_the_same_time() -> None:
    three = asyncio.Barrier(3)

    async def score(solution_str: str, ground_truth: str) -> float:
        await asyncio.wait_for(three.wait(), 20)
        return float(solution_str == ground_truth)

    data = rollouts([Example(str(n), "p", str(n)) for n in range(3)], ["0", "x", "2"])
    assert Rewards((from_verl(score),))(data).score.tolist() == [1.0, 0.0, 1.0]


class Later:
    """Opens something on the loop once and uses it at every call, as a client of a service does."""

    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []

    async def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        self.loops.append(asyncio.get_running_loop())
        return [1.0] * len(completions)


def test_one_loop_serves_a_whole_run_and_ends_with_its_rewards() -> None:
    later = Later()
    given = Rewards((from_trl(later),))
    before = set(threading.enumerate())  # of other tests some may end meanwhile
    for _ in range(3):
        assert given(PAIR).score.tolist() == [1.0, 1.0]
    assert len(set(map(id, later.loops))) == 1 and len(set(threading.enumerate()) - before) == 1
    del given
    gc.collect()
    assert not set(threading.enumerate()) - before and later.loops[0].is_closed()


def test_it_works_where_a_loop_runs_already() -> None:
    """As in a notebook."""

    async def cell() -> list[float]:
        return Rewards((from_trl(Later()),))(PAIR).score.tolist()

    assert asyncio.run(cell()) == [1.0, 1.0]


def test_what_is_async_is_told_as_trl_tells_it() -> None:
    async def wait(completions: list[str], by: float = 0.0) -> list[float]:
        return [by]

    assert (
        is_async(wait) and is_async(partial(partial(wait, by=1.0))) and is_async(Later()) and is_async(partial(Later()))
    )
    assert not is_async(lambda completions: [1.0]) and not is_async(Later)

    def hands_on(completions: list[str]) -> Any:
        return wait(completions, by=3.0)

    one = rollouts([Example("a", "p")], ["x"])
    assert not is_async(hands_on) and Rewards((from_trl(hands_on),))(one).score.tolist() == [3.0]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise KeyError('z')", "raised KeyError"),
        ("raise SystemExit(0)", "raised SystemExit"),
        ("return [1.0]", "returned 1 rewards for 2 completions"),
        ("return [1.0, float('nan')]", "row 1: returned nan"),
    ],
)
def test_a_bad_async_answer_names_the_function(tmp_path: Path, body: str, sentence: str) -> None:
    said = refusal(tmp_path, f"async def f(completions, **kwargs):\n    {body}\n")
    assert "reward 'r.py:f'" in said and sentence in said


def test_what_is_no_exception_is_caught_too(tmp_path: Path) -> None:
    """math_verify's TimeoutException derives from BaseException."""
    code = """
class Late(BaseException): pass
def f(completions): raise Late("5 s")
async def g(completions): raise Late()
"""
    assert "r.py:f' raised Late: 5 s" in refusal(tmp_path, code)
    assert "r.py:g' raised Late" in refusal(tmp_path, code, "g")


def test_one_failure_ends_the_others_and_leaves_the_loop_usable() -> None:
    ended: list[str] = []

    async def slow(completions: list[str], **columns: Any) -> list[float]:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ended.append("slow")
            raise
        return [1.0, 1.0]

    async def fails(completions: list[str], **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        raise ValueError("no")

    given = Rewards((from_trl(slow), from_trl(fails)))
    for _ in range(2):
        with pytest.raises(InputError, match=r"'fails' raised ValueError: no"):
            given(PAIR)
    assert ended == ["slow", "slow"]


def test_ctrl_c_cancels_what_is_waited_for() -> None:
    # A process that was started in the background by a script ignores interrupts, and so would this test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    waiting, ended = threading.Event(), threading.Event()

    async def hang() -> None:
        waiting.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def interrupt() -> None:
        waiting.wait(20)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    finger = threading.Thread(target=interrupt)
    finger.start()
    loop = Loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(hang())
    finally:
        signal.signal(signal.SIGINT, before)
    finger.join()
    assert ended.wait(20)


def test_ctrl_c_while_the_work_is_handed_over_cancels_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, ended = threading.Event(), threading.Event()
    hand_over = asyncio.run_coroutine_threadsafe

    async def hang() -> None:
        waiting.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    def interrupted(work: Any, loop: asyncio.AbstractEventLoop) -> Any:
        hand_over(work, loop)
        assert waiting.wait(20)
        raise KeyboardInterrupt

    loop = Loop()
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(hang())
    monkeypatch.undo()
    assert ended.wait(20)


def test_a_loop_that_goes_ends_what_it_still_does() -> None:
    began, ended = threading.Event(), threading.Event()

    async def background() -> None:
        began.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    held: list[Any] = []

    async def leaves_it_behind() -> None:
        held.append(asyncio.ensure_future(background()))

    loop = Loop()
    loop.run(leaves_it_behind())
    assert began.wait(20)
    del loop
    gc.collect()
    assert ended.is_set() and held[0].cancelled()


def test_rewards_of_a_file_share_one_loop(tmp_path: Path) -> None:
    code = """
import asyncio
HELD = {}
async def f(completions):
    HELD["event"] = asyncio.Event()
    await asyncio.wait_for(HELD["event"].wait(), 20)
    return [1.0, 1.0]
async def g(completions):
    while "event" not in HELD:
        await asyncio.sleep(0)
    HELD["event"].set()
    return [2.0, None]
"""
    assert rewards(tmp_path, code, "f", "g")(PAIR).score.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("how", ["raised", "inner", "plain", "awaitable"])
def test_a_cancellation_of_its_own_is_a_failure_of_the_function(how: str) -> None:
    async def inner(completions: list[str], **columns: Any) -> list[float]:
        if how == "raised":
            raise asyncio.CancelledError
        task = asyncio.ensure_future(asyncio.sleep(30))
        task.cancel()
        await task
        return [1.0] * len(completions)

    def plain(completions: list[str], **columns: Any) -> Any:
        if how == "awaitable":
            return inner(completions)
        raise asyncio.CancelledError

    given = Rewards((from_trl(plain if how in ("plain", "awaitable") else inner, name="mine"),))
    with pytest.raises(InputError, match="reward 'mine' raised CancelledError"):
        given(PAIR)
