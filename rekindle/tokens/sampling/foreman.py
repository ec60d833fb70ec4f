"""The state of a fleet: blocks go to workers, results come back, weights are taken and proven, dead workers replaced.

One thread owns it (`Fleet`), so nothing here is locked. Blocks are pure functions of (prompts, key, uids, weights): one
that is drawn again gives the same responses, and what a worker says after it was given up is not heard. So nothing is
lost and nothing is counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rekindle.errors import EngineDead, InputError
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Crew, Told, WorkerGone
from rekindle.tokens.sampling.seats import Job, Seat, Task, next_task

LEARNT = 0.1
"""How fast the expected share of the longest response follows what came back: the weight of a new block."""
Proof = Callable[[int, Told], None]
Post = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """depth: blocks in a worker's hands. room: blocks of calls that nobody waits for yet, drawn ones included.

    health: seconds of silence before a ping, and again before the worker is given up; starting: before the
    fleet gives up waiting for one to come up. restarts: of all workers together.
    """

    depth: int = 2
    room: int = 64
    health: float = 60.0
    starting: float = 600.0
    restarts: int = 16


class Foreman:
    """What the fleet's thread does. post: has a call made by that thread later. proof: see `Fleet`."""

    def __init__(self, crew: Crew, rules: Rules, proof: Proof, post: Post) -> None:
        self.crew, self.rules, self.proof, self.post = crew, rules, proof, post
        self.seats = [Seat(index) for index in range(crew.size)]
        self.jobs: list[Job] = []
        self.versions: list[int] = []
        self.settling: tuple[int, Future[None]] | None = None
        self.share, self.restarts, self.reissued = 1.0, 0, 0
        self.broken: Exception | None = None

    def open(self) -> None:
        """Starts all workers."""
        for seat in self.seats:
            self._start(seat)

    def turn(self) -> None:
        """Looks after silent workers, then hands out what can be handed out."""
        if self.broken is None:
            self._watch(time.monotonic())
            self._settle()
            self._hand_out()

    def add(self, job: Job, urgent: bool) -> None:
        """A new call; an urgent one goes before all others."""
        self.jobs.insert(0 if urgent else len(self.jobs), job)
        if self.broken is not None:
            job.fail(self.broken)

    def remove(self, job: Job) -> None:
        """The call's results were taken, or nobody wants them any more."""
        if job in self.jobs:
            self.jobs.remove(job)
        self._retire()

    def settle(self, version: int, future: Future[None]) -> None:
        """Brings every worker to `version`; `future` is done once all are proven to have it."""
        self.settling = (version, future)
        if self.broken is not None:
            future.set_exception(self.broken)

    def stop(self, error: Exception) -> None:
        """Every call ends with `error`, now and later."""
        if self.broken is not None:
            return
        self.broken = error
        for job in self.jobs:
            job.fail(error)
        if self.settling is not None and not self.settling[1].done():
            self.settling[1].set_exception(error)

    def _await(
        self, seat: Seat, future: Future[Any], then: Callable[[Any], None], refused: Callable[[InputError], None]
    ) -> None:
        """Calls `then` with the result in the fleet's thread, if the seat still lives the life that was asked."""
        life = seat.life

        def heard() -> None:
            if seat.life != life or self.broken is not None:
                return
            seat.heard, seat.pinged = time.monotonic(), None
            error = future.exception()
            if error is None:
                then(future.result())
            elif isinstance(error, WorkerGone):
                self._lost(seat, str(error))
            elif isinstance(error, InputError):
                refused(error)
            else:
                raise error

        future.add_done_callback(lambda _: self.post(heard))

    def _start(self, seat: Seat) -> None:
        seat.heard = time.monotonic()

        def up(_: Any) -> None:
            seat.ready = True

        self._await(seat, self.crew.start(seat.index), up, self.stop)

    def _hand_out(self) -> None:
        while (found := next_task(self.jobs, self.seats, self.rules.depth, self.rules.room)) is not None:
            seat, job, block = found
            task = Task(job, block, block.tokens(self.share))
            job.waiting.remove(block)
            if not seat.busy:
                seat.heard = time.monotonic()
            seat.tasks.append(task)
            if seat.version == block.version and seat.loading is None:
                self._draw(seat, task)
            else:
                seat.late.append(task)
                self._load(seat, block.version)

    def _settle(self) -> None:
        if self.settling is None or self.settling[1].done():
            return
        version, future = self.settling
        for seat in self.seats:
            if seat.ready and not seat.tasks and seat.version != version:
                self._load(seat, version)
        if all(seat.version == version for seat in self.seats):
            future.set_result(None)

    def _load(self, seat: Seat, version: int) -> None:
        if seat.loading is not None:
            return
        if not seat.tasks:
            seat.heard = time.monotonic()
        seat.loading = version

        def loaded(told: Told) -> None:
            self.proof(version, told)
            seat.version, seat.loading = version, None
            late, seat.late = seat.late, []
            for task in late:
                self._draw(seat, task)

        self._await(seat, self.crew.load(seat.index, version), loaded, self.stop)

    def _draw(self, seat: Seat, task: Task) -> None:
        def drawn(rollouts: Rollouts) -> None:
            seat.tasks.remove(task)
            response = float(rollouts.mask.sum())
            seat.done += response + task.block.n * sum(map(len, task.block.prompts))
            self.share += LEARNT * (response / len(rollouts) / task.block.settings.max_tokens - self.share)
            task.job.finish(task.block, rollouts)
            self._retire()

        def refused(error: InputError) -> None:
            seat.tasks.remove(task)
            task.job.fail(error)

        self._await(seat, self.crew.draw(seat.index, task.block), drawn, refused)

    def _retire(self) -> None:
        """Lets go of weights that no block under way and no later one can ask for."""
        wanted = {block.version for job in self.jobs if not job.future.done() for block in job.blocks}
        wanted |= {max(self.versions, default=0)} | {seat.loading for seat in self.seats if seat.loading is not None}
        for version in [one for one in self.versions if one not in wanted]:
            self.versions.remove(version)
            self.crew.drop(version)

    def _watch(self, now: float) -> None:
        """Asks silent workers for a sign, and gives up those that give none."""
        for seat in [one for one in self.seats if one.busy]:
            limit = self.rules.health if seat.ready else self.rules.starting
            if now - (seat.heard if seat.pinged is None else seat.pinged) <= limit:
                continue
            if not seat.ready:
                raise EngineDead(
                    f"sampler {seat.index} of the fleet did not come up in {limit:g} s: see whether Ray has cpus and "
                    "gpus to spare (`ray status`), lower ray.samplers, and run the same command with --resume"
                )
            if seat.pinged is None:
                seat.pinged = now
                self._await(seat, self.crew.ping(seat.index), lambda _: None, self.stop)
            else:
                self._lost(seat, f"no sign of life in {limit:g} s")

    def _lost(self, seat: Seat, reason: str) -> None:
        self.crew.kill(seat.index)
        if self.restarts >= self.rules.restarts:
            raise EngineDead(
                f"a sampler of the fleet is gone ({reason}) after {self.restarts} restarts: see whether the machine "
                "has memory enough, raise ray.restarts, and run the same command with --resume"
            )
        self.restarts += 1
        for task in seat.reborn(time.monotonic()):
            if not task.job.future.done():
                self.reissued += 1
                task.job.give_back(task.block)
        self._start(seat)
