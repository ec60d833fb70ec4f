"""A fleet: calls cut into blocks, blocks shared out among workers by tokens in flight, results put back in order.

A thread of its own keeps the workers busy while the run trains. It alone touches the state (`Foreman`) and reads an
inbox; whoever wants something posts it there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue

from torch import Tensor

from rekindle.errors import EngineDead
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Block, Crew
from rekindle.tokens.sampling.foreman import Foreman, Proof, Rules
from rekindle.tokens.sampling.seats import Job

CLOSED = "the fleet of samplers was closed"


class Fleet:
    """Hands blocks to the workers of `crew`.

    proof: called with (version, what a worker said after its load); raises where that worker does not compute with
    these weights, which ends the fleet as any other error does that no restart can cure.
    """

    def __init__(self, crew: Crew, rules: Rules, proof: Proof) -> None:
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._foreman = Foreman(crew, rules, proof, self._inbox.put)
        self._counted, self._closed = (0, 0), False
        self._pause = min(1.0, rules.health / 4)
        self._inbox.put(self._foreman.open)
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """The newest weights, with a number above all before; they are copied before this returns."""
        self._foreman.crew.publish(version, weights)
        self._inbox.put(partial(self._foreman.versions.append, version))

    def settle(self, version: int) -> None:
        """Waits until every worker is proven to have `version`. Raises what ended the fleet."""
        future: Future[None] = Future()
        self._post(partial(self._foreman.settle, version, future))
        future.result()

    def submit(self, blocks: Sequence[Block], urgent: bool = False) -> Job:
        """Starts a call and returns at once. urgent: before all others, for somebody waits for it."""
        job = Job.of(blocks)
        self._post(partial(self._foreman.add, job, urgent))
        return job

    def take(self, job: Job) -> list[Rollouts]:
        """The results of a call, in order, waiting for them. Raises what ended it."""
        try:
            return job.future.result()
        finally:
            self._inbox.put(partial(self._foreman.remove, job))

    def clocked(self) -> dict[str, float]:
        """Since the last time: restarts, blocks handed out again, and how evenly tokens fell to the workers.

        fleet/balance: tokens of a worker, the mean of all over the busiest; 1 is even.
        """
        future: Future[tuple[list[float], tuple[int, int]]] = Future()

        def count() -> None:
            done = [seat.done for seat in self._foreman.seats]
            for seat in self._foreman.seats:
                seat.done = 0.0
            future.set_result((done, (self._foreman.restarts, self._foreman.reissued)))

        self._post(count)
        done, counted = future.result()
        restarts, reissued = (float(now - before) for now, before in zip(counted, self._counted, strict=True))
        self._counted = counted
        balance = sum(done) / len(done) / max(done) if max(done) else 1.0
        return {"fleet/restarts": restarts, "fleet/reissued": reissued, "fleet/balance": balance}

    def close(self) -> None:
        """Ends the workers; calls under way and later ones fail with `EngineDead`."""
        self._inbox.put(partial(self._foreman.stop, EngineDead(CLOSED)))
        self._inbox.put(self._end)
        self._thread.join()
        self._foreman.crew.close()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._once()
            except Exception as error:  # a thread that ended in silence would leave the run waiting for ever
                self._foreman.stop(error)

    def _once(self) -> None:
        """Hears all that has arrived before it looks for silent workers: one call may take long (a proof computes)."""
        call = self._next(self._pause)
        while call is not None and not self._closed:
            call()
            call = self._next(0.0)
        self._foreman.turn()

    def _next(self, wait: float) -> Callable[[], None] | None:
        try:
            return self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
        except Empty:
            return None

    def _post(self, call: Callable[[], None]) -> None:
        if self._closed:  # nobody would hear it, and the caller would wait for ever
            raise EngineDead(CLOSED)
        self._inbox.put(call)

    def _end(self) -> None:
        self._closed = True
