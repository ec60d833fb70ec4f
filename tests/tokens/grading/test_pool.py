"""The pool: real processes that hang, die and fork, and a deadline that holds from any thread."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rekindle.errors import EngineDead
from rekindle.tokens.grading.pool import Pool
from tests.tokens.grading.seen import workers

HERE = "tests.tokens.grading.targets"


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2, deadline=30.0)
    yield made
    made.close()
    assert not workers(), "close leaves no child"


class Closing:
    """Closes a pool while it is being pickled."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.pool.close()
        return int, (1,)


def test_results_come_in_the_order_of_the_calls(pool: Pool) -> None:
    outcomes = pool.map(f"{HERE}:double", [(n,) for n in range(50)])
    assert [o.value for o in outcomes] == [2 * n for n in range(50)] and pool.counts == {"ok": 50}
    assert pool.map(f"{HERE}:double", []) == []


def test_a_worker_starts_light(pool: Pool) -> None:
    heavy = ["torch", "transformers", "numpy", "sympy", "pydantic"]
    began = time.monotonic()
    assert pool.map(f"{HERE}:loaded", [(["sys", *heavy],)])[0].value == ["sys"]
    assert time.monotonic() - began < 15, "some 50 ms on a quiet machine"


def test_a_call_that_hangs_costs_itself_only(pool: Pool) -> None:
    calls = {n: f"{HERE}:spin" for n in (1, 4)}
    began = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        asked = [
            threads.submit(pool.map, calls[n], [()], 1.0)
            if n in calls
            else threads.submit(pool.map, f"{HERE}:double", [(n,)])
            for n in range(6)
        ]
        outcomes = [a.result()[0] for a in asked]
    assert [o.status for o in outcomes] == ["ok", "timeout", "ok", "ok", "timeout", "ok"]
    assert [o.value for o in outcomes if o.status == "ok"] == [0, 4, 6, 10] and "1 s" in outcomes[1].value
    assert time.monotonic() - began < 15
    assert pool.map(f"{HERE}:double", [(1,), (2,)])[1].value == 4, "the pool works afterwards"
    assert pool.counts == {"ok": 6, "timeout": 2}


def test_the_deadline_of_a_call_starts_when_a_worker_is_on_it(pool: Pool) -> None:
    outcomes = pool.map(f"{HERE}:sleep", [(1.0,)] * 6, deadline=2.9)
    assert [o.status for o in outcomes] == ["ok"] * 6, "3 s for all, each within its own 2.9"
    assert pool.map(f"{HERE}:sleep", [(30,)], deadline=0.1)[0].status == "timeout"


def test_one_huge_power_is_killed_though_it_holds_the_interpreter(pool: Pool) -> None:
    began = time.monotonic()
    assert pool.map(f"{HERE}:power", [()], deadline=1.0)[0].status == "timeout"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("target", ["leave", "suicide"])
def test_a_worker_that_dies_costs_its_call_only(pool: Pool, target: str) -> None:
    call = (0,) if target == "leave" else ()
    assert pool.map(f"{HERE}:{target}", [call])[0].status == "died"
    assert pool.map(f"{HERE}:double", [(4,)])[0].value == 8 and pool.counts == {"died": 1, "ok": 1}


def test_a_worker_killed_between_calls_is_replaced(pool: Pool) -> None:
    pid = pool.map(f"{HERE}:who", [()])[0].value
    psutil.Process(pid).kill()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    outcomes = pool.map(f"{HERE}:who", [()] * 4)
    assert {o.status for o in outcomes} == {"ok"} and pid not in {o.value for o in outcomes}


def test_whatever_is_raised_is_told(pool: Pool) -> None:
    assert pool.map(f"{HERE}:fail", [("why",)])[0].value == "KeyboardInterrupt: why"
    assert "not JSON serializable" in pool.map(f"{HERE}:strange", [()])[0].value
    assert pool.map(f"{HERE}:double", [()])[0].status == "raised"


def test_memory_and_results_are_bounded(pool: Pool) -> None:
    outcome = pool.map(f"{HERE}:hoard", [(3 << 30,)])[0]
    assert outcome.status == "raised" and outcome.value.startswith("MemoryError")
    assert pool.map(f"{HERE}:blob", [(2 << 20,)])[0].status == "raised"
    assert len(pool.map(f"{HERE}:blob", [(1 << 19,)])[0].value) == 1 << 19


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "x" * 3_000_000, "𝒳" * 1000], ids=range(5))
def test_any_text_gets_there(pool: Pool, text: str) -> None:
    outcome = pool.map(f"{HERE}:echo", [(text,)])[0]
    assert outcome.value == text if len(text) < 10**6 else outcome.status == "raised"


def test_a_daemon_is_ended_with_its_worker(pool: Pool, tmp_path: Path) -> None:
    marker = str(tmp_path)
    assert pool.map(f"{HERE}:daemon", [(marker,)], deadline=2.0)[0].status == "timeout"
    assert not [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]


def test_from_many_threads_at_once(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: [o.value for o in pool.map(f"{HERE}:double", [(n,)] * 5)], range(20)))
    assert found == [[2 * n] * 5 for n in range(20)]


def test_a_target_that_is_not_there_stops_the_run(pool: Pool) -> None:
    for target in ("no_such_module:x", f"{HERE}:no_such_function"):
        with pytest.raises(EngineDead, match="cannot import its target"):
            pool.map(target, [()])
    assert pool.map(f"{HERE}:double", [(1,)])[0].value == 2


def test_what_is_slow_to_load_is_prepared_before_the_first_call() -> None:
    pool = Pool(1, deadline=1.0, prepare=f"{HERE}:slow_start")
    assert pool.map(f"{HERE}:started", [()])[0].value is True, "its second and a half counted towards no call"
    assert pool.map(f"{HERE}:spin", [()])[0].status == "timeout"
    assert pool.map(f"{HERE}:started", [()])[0].value is True, "and a worker that replaces another does the same"
    pool.close()
    broken = Pool(1, deadline=1.0, prepare=f"{HERE}:no_such_function")
    with pytest.raises(EngineDead, match="ended at its start: AttributeError"):
        broken.map(f"{HERE}:started", [()])
    broken.close()


def test_a_closed_pool_says_so_and_calls_under_way_end() -> None:
    pool = Pool(1, deadline=30.0)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(pool.map(f"{HERE}:sleep", [(30,), (30,)])))
    thread.start()
    while not workers():
        time.sleep(0.01)
    time.sleep(0.2)
    began = time.monotonic()
    pool.close()
    pool.close()
    thread.join()
    assert [o.status for o in outcomes] == ["died", "died"] and time.monotonic() - began < 15
    assert not workers()
    with pytest.raises(EngineDead, match="closed"):
        pool.map(f"{HERE}:double", [(1,)])


def test_a_pool_that_is_closed_while_calls_are_made_ready_takes_none() -> None:
    pool = Pool(1, deadline=30.0)
    pool.map(f"{HERE}:double", [(1,)])
    with pytest.raises(EngineDead, match="closed"):
        pool.map(f"{HERE}:double", [(Closing(pool),)])


def test_a_pool_that_is_forgotten_closes() -> None:
    pool = Pool(1, deadline=30.0)
    pool.map(f"{HERE}:double", [(1,)])
    assert workers()
    del pool
    gc.collect()
    assert not workers()


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_workers_end_with_the_process_that_has_them(how: str) -> None:
    code = (
        "import os, signal, threading, time\n"
        "from rekindle.tokens.grading.pool import Pool\n"
        "pool = Pool(2, 60.0)\n"
        f"print(*[o.value for o in pool.map('{HERE}:who', [()] * 2)], flush=True)\n"
        f"threading.Thread(target=pool.map, args=('{HERE}:power', [()] * 2), daemon=True).start()\n"
        "time.sleep(0.3)\n" + ("os.kill(os.getpid(), signal.SIGKILL)" if how == "kill" else "")
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=600)
    pids = {int(pid) for pid in ran.stdout.split()}
    assert pids and ran.returncode == (-9 if how == "kill" else 0) and not ran.stderr
    until = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
