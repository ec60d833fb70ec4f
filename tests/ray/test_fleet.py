"""The fleet's bookkeeping, by threads in place of actors: order, balance, back-pressure, versions, deaths."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Block, Told, WorkerGone
from rekindle.tokens.sampling.fleet import Fleet
from rekindle.tokens.sampling.foreman import Rules
from rekindle.tokens.sampling.proofs import Exact
from rekindle.tokens.sampling.seats import Job, Seat, Task, next_task
from rekindle.tokens.sampling.simulated import SimulatedHand, SimulatedPlan
from tests.ray.crews import WEIGHTS, ThreadCrew, blocks


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits for something that another thread is about to bring about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@contextmanager
def fleet(crew: ThreadCrew, **rules: Any) -> Iterator[Fleet]:
    """A fleet with version 1 of the weights."""
    proof = Exact(3)
    made = Fleet(crew, Rules(**rules), proof)
    proof.expect(1, WEIGHTS)
    made.publish(1, WEIGHTS)
    try:
        yield made
    finally:
        made.close()


def alone(prompts: int, **how: Any) -> Rollouts:
    """What a single worker draws, block by block."""
    hand = SimulatedPlan().build()
    hand.load(1, WEIGHTS)
    return Rollouts.concat([hand.draw(block) for block in blocks(prompts, **how)])


def same(a: Rollouts, b: Rollouts) -> bool:
    return torch.equal(a.ids, b.ids) and torch.equal(a.uid, b.uid) and torch.equal(a.logp_sampled, b.logp_sampled)


def slow_first(worker: int, block: Block) -> None:
    time.sleep(0.05 if block.place == 0 else 0.0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_prompts_whoever_drew_them(workers: int) -> None:
    crew = ThreadCrew(SimulatedPlan(), workers, slow_first)
    with fleet(crew) as there:
        there.settle(1)
        got = there.take(there.submit(blocks(11)))
    assert same(Rollouts.concat(got), alone(11)) and len(got) == 6
    assert got[0].uid.tolist() == [0, 1, 2, 3] and len(set(torch.cat([g.uid for g in got]).tolist())) == 22
    assert all(crew.drawn_by()[w] for w in range(workers)), "every worker had something to do"


def test_a_block_goes_to_the_free_worker_with_the_fewest_tokens_in_hand() -> None:
    seats = [Seat(0, ready=True, version=1), Seat(1, ready=True, version=1), Seat(2)]
    job = Job.of(blocks(6))
    for cost, seat in ((30.0, seats[0]), (20.0, seats[1])):
        seat.tasks.append(Task(job, job.blocks[0], cost))
    found = next_task([job], seats, depth=2, room=9)
    assert found is not None and found[0] is seats[1], "the third has not come up yet"
    seats[1].tasks.append(Task(job, job.blocks[1], 1.0))
    found = next_task([job], seats, depth=2, room=9)
    assert found is not None and found[0] is seats[0], "the second has its hands full"
    assert next_task([job], seats, depth=1, room=9) is None


def test_among_equals_the_worker_that_has_the_weights_already() -> None:
    seats = [Seat(0, ready=True, version=1), Seat(1, ready=True, version=2)]
    found = next_task([Job.of(blocks(2, version=2))], seats, depth=2, room=9)
    assert found is not None and found[0] is seats[1]
    seats[1].loading = 3
    found = next_task([Job.of(blocks(2, version=2))], seats, depth=2, room=9)
    assert found is not None and found[0] is seats[0], "one that takes other weights is not free"


def test_expected_tokens_are_prompts_and_a_share_of_the_longest_response() -> None:
    (block,) = blocks(2, n=3, long=8)
    assert block.tokens(1.0) == 3 * ((1 + 8) + (2 + 8)) and block.tokens(0.25) == 3 * ((1 + 2) + (2 + 2))


def test_long_blocks_and_short_ones_are_evened_out() -> None:
    drawn, enough = Counter[int](), threading.Event()

    def work(worker: int, block: Block) -> None:
        if block.place == 0:
            assert enough.wait(60), "the long block ends once the other worker has done eight"
            return
        time.sleep(0.02)
        drawn[worker] += 1
        if max(drawn.values()) >= 8:
            enough.set()

    crew = ThreadCrew(SimulatedPlan(), 2, work)
    with fleet(crew, depth=1) as there:
        there.settle(1)
        there.take(there.submit(blocks(24)))
        told = there.clocked()
    few, many = sorted(map(len, crew.drawn_by().values()))
    assert few + many == 12 and few <= 4, "who has the long block gets few others"
    assert 0.5 < told["fleet/balance"] < 1.0 and told["fleet/restarts"] == told["fleet/reissued"] == 0.0


def test_no_worker_holds_more_than_depth_blocks() -> None:
    crew = ThreadCrew(SimulatedPlan(), 2, lambda w, b: time.sleep(0.005))
    with fleet(crew, depth=3) as there:
        there.settle(1)
        there.take(there.submit(blocks(40)))
    assert set(crew.most.values()) == {3}


def test_results_that_nobody_takes_hold_back_what_nobody_waits_for() -> None:
    crew = ThreadCrew(SimulatedPlan(), 2)
    with fleet(crew, room=3) as there:
        jobs = [there.submit(blocks(8, first=100 * i)) for i in range(4)]
        until(lambda: jobs[0].future.done())
        until(lambda: sum(job.open for job in jobs) == 4 + 3)
        time.sleep(0.05)
        assert [job.open for job in jobs] == [4, 3, 0, 0]
        there.take(jobs[0])
        until(lambda: sum(job.open for job in jobs[1:]) == 4 + 3)
        for job in jobs[1:]:
            assert len(there.take(job)) == 4


def test_what_is_urgent_overtakes_and_is_never_held_back() -> None:
    crew = ThreadCrew(SimulatedPlan(), 1)
    with fleet(crew, room=0) as there:
        later = [there.submit(blocks(4, first=100 * i)) for i in range(3)]
        until(lambda: later[0].future.done())
        assert len(there.take(there.submit(blocks(4, first=900), urgent=True))) == 2
        for job in later:
            there.take(job)
    assert crew.drawn_by()[0] == [0, 2, 900, 902, 100, 102, 200, 202]


def test_weights_are_taken_before_the_block_that_names_them_and_let_go_after_the_last() -> None:
    gate = threading.Event()
    crew = ThreadCrew(SimulatedPlan(), 2, lambda w, b: gate.wait(10))
    proof = Exact(3)
    there = Fleet(crew, Rules(), proof)
    jobs = []
    for version in (1, 2, 3):
        weights = {"w": torch.full((4,), float(version))}
        proof.expect(version, weights)
        there.publish(version, weights)
        jobs.append(there.submit(blocks(6, version=version, first=10 * version)))
    until(lambda: sum(what == "draw" for what, _, _ in crew.log) >= 2)
    assert sorted(crew.versions) == [1, 2, 3]
    gate.set()
    for version, job in enumerate(jobs, start=1):
        for rollouts in there.take(job):
            assert (rollouts.ids[rollouts.mask] // 1000 == version).all(), "all by the version that the call names"
    until(lambda: sorted(crew.versions) == [3])
    there.close()


def test_a_push_that_waits_finds_every_worker_with_the_new_weights() -> None:
    crew = ThreadCrew(SimulatedPlan(), 3)
    with fleet(crew) as there:
        there.settle(1)
        assert sorted(who for what, who, version in crew.log if (what, version) == ("load", 1)) == [0, 1, 2]


def test_a_worker_with_other_weights_ends_the_fleet_with_numbers() -> None:
    with fleet(ThreadCrew(SimulatedPlan(deaf=True), 2)) as there:
        with pytest.raises(GuardStop, match=r"other weights than the training model in 1 of 1 tensors \(w\)"):
            there.settle(1)
        with pytest.raises(GuardStop):
            there.take(there.submit(blocks(2)))


def once(fault: Callable[[], None], worker: int = 0) -> Callable[[int, Block], None]:
    """Does `fault` when `worker` draws its second block, once."""
    seen: list[int] = []

    def before(who: int, block: Block) -> None:
        if who == worker:
            seen.append(block.place)
            if len(seen) == 2:
                fault()
        time.sleep(0.002)

    return before


def test_what_a_dead_worker_had_in_hand_is_drawn_again_and_nothing_twice() -> None:
    def die() -> None:
        raise WorkerGone("killed in the middle")

    crew = ThreadCrew(SimulatedPlan(), 2, once(die))
    with fleet(crew) as there:
        there.settle(1)
        got = there.take(there.submit(blocks(20)))
        told = there.clocked()
    assert same(Rollouts.concat(got), alone(20)) and len(got) == 10
    assert told["fleet/restarts"] == 1 and told["fleet/reissued"] in (1, 2)
    assert [what for what, who, _ in crew.log if who == 0 and what in ("start", "kill")] == ["start", "kill", "start"]


def test_a_worker_that_is_silent_is_asked_and_a_hung_one_is_replaced() -> None:
    crew = ThreadCrew(SimulatedPlan(), 2)
    crew.before = once(lambda: crew.workers[0].stopped.clear())
    with fleet(crew, health=0.5) as there:
        there.settle(1)
        got = there.take(there.submit(blocks(20)))
        told = there.clocked()
    assert same(Rollouts.concat(got), alone(20)) and told["fleet/restarts"] == 1
    assert ("ping", 0, 0) in crew.log and crew.log.index(("ping", 0, 0)) < crew.log.index(("kill", 0, 0))


def test_one_that_is_slow_but_answers_is_left_alone() -> None:
    crew = ThreadCrew(SimulatedPlan(), 1, lambda w, b: time.sleep(0.3))
    with fleet(crew, health=0.05) as there:
        there.take(there.submit(blocks(2)))
        assert there.clocked()["fleet/restarts"] == 0
    assert ("ping", 0, 0) in crew.log


def test_workers_whose_answers_wait_behind_a_slow_proof_are_left_alone() -> None:
    crew, exact = ThreadCrew(SimulatedPlan(), 6), Exact(3)

    def slow(version: int, told: Told) -> None:
        time.sleep(0.3)
        exact(version, told)

    there = Fleet(crew, Rules(health=0.5), slow)
    exact.expect(1, WEIGHTS)
    there.publish(1, WEIGHTS)
    there.settle(1)
    assert there.clocked()["fleet/restarts"] == 0 and not [who for what, who, _ in crew.log if what == "kill"]
    there.close()


def test_one_that_never_comes_up_ends_the_wait() -> None:
    gate = threading.Event()

    class Slow:
        def build(self) -> SimulatedHand:
            gate.wait(10)
            return SimulatedHand()

    with fleet(ThreadCrew(Slow(), 1), starting=0.1, health=0.1) as there:
        with pytest.raises(EngineDead, match=r"sampler 0 of the fleet did not come up in 0\.1 s"):
            there.settle(1)
        gate.set()


def test_too_many_deaths_end_the_run_with_a_sentence() -> None:
    def die(worker: int, block: Block) -> None:
        raise WorkerGone("out of memory")

    with fleet(ThreadCrew(SimulatedPlan(), 2, die), restarts=3) as there:
        with pytest.raises(EngineDead, match=r"gone \(out of memory\) after 3 restarts: .* --resume"):
            there.take(there.submit(blocks(4)))
        with pytest.raises(EngineDead):
            there.take(there.submit(blocks(4)))


def test_a_call_that_cannot_be_drawn_fails_alone() -> None:
    def refuse(worker: int, block: Block) -> None:
        if block.first_group == 2:
            raise InputError("prompt 'p2' is too long")

    with fleet(ThreadCrew(SimulatedPlan(), 2, refuse)) as there:
        with pytest.raises(InputError, match="'p2' is too long"):
            there.take(there.submit(blocks(8)))
        assert len(there.take(there.submit(blocks(8, first=100)))) == 4
        assert there.clocked()["fleet/restarts"] == 0


def test_an_error_of_the_program_reaches_the_caller_instead_of_a_wait_for_ever() -> None:
    def fault(worker: int, block: Block) -> None:
        raise ZeroDivisionError("a fault of the program")

    with fleet(ThreadCrew(SimulatedPlan(), 1, fault)) as there, pytest.raises(ZeroDivisionError):
        there.take(there.submit(blocks(2)))


def test_closing_ends_what_is_under_way() -> None:
    gate = threading.Event()
    crew = ThreadCrew(SimulatedPlan(), 1, lambda w, b: gate.wait(10))
    with fleet(crew) as there:
        job = there.submit(blocks(2))
        until(lambda: ("draw", 0, 0) in crew.log)
    with pytest.raises(EngineDead, match="was closed"):
        job.future.result()
    for late in (lambda: there.submit(blocks(2)), lambda: there.settle(1), there.clocked):
        with pytest.raises(EngineDead, match="was closed"):
            late()
    gate.set()
