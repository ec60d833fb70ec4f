"""Workers without Ray: threads of this process, with faults to switch on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.crew import Block, Told, WorkerGone, cut
from rekindle.tokens.sampling.hands import Hand, Plan

WEIGHTS = {"w": torch.arange(4.0)}
LOADING = threading.Lock()
"""transformers loads one model at a time in a process."""


class Worker:
    """A thread that does one thing after another until it is killed."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.hand, self.gone, self.stopped = plan, None, False, threading.Event()
        self.stopped.set()
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.waiting: list[Future[Any]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, work: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self.gone:
            future.set_exception(WorkerGone("killed"))
        else:
            self.waiting.append(future)
            self.calls.put((future, work))
        return future

    def die(self) -> None:
        self.gone = True
        self.stopped.set()
        for future in self.waiting:
            if not future.done():
                future.set_exception(WorkerGone("killed"))
        self.calls.put(None)

    def _run(self) -> None:
        while (call := self.calls.get()) is not None:
            future, work = call
            try:
                result, error = work(), None
            except Exception as caught:
                result, error = None, caught
            self.stopped.wait()
            if future.done():
                continue
            future.set_result(result) if error is None else future.set_exception(error)


class ThreadCrew:
    """`Crew` of threads. before: called with (worker, block) in the worker's thread before it draws; may raise.

    log: what was asked, in order; versions: of the weights that are there; most: blocks in one worker's hands at once.
    """

    def __init__(
        self, plan: Plan, size: int, before: Callable[[int, Block], None] = lambda worker, block: None
    ) -> None:
        self.plan, self.size, self.before = plan, size, before
        self.workers: dict[int, Worker] = {}
        self.versions: dict[int, Mapping[str, Tensor]] = {}
        self.log: list[tuple[str, int, int]] = []
        self.hands: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self.lock = threading.Lock()

    def start(self, worker: int) -> Future[Any]:
        self.workers[worker] = Worker(self.plan)
        self.hands[worker] = 0
        self.log.append(("start", worker, 0))

        held = self.workers[worker]

        def build() -> None:
            with LOADING:
                held.hand = self.plan.build()

        return self.workers[worker].ask(build)

    def load(self, worker: int, version: int) -> Future[Told]:
        self.log.append(("load", worker, version))
        held, weights = self.workers[worker], self.versions[version]
        return held.ask(lambda: _hand(held).load(version, weights))

    def draw(self, worker: int, block: Block) -> Future[Rollouts]:
        self.log.append(("draw", worker, block.first_group))
        held = self.workers[worker]
        with self.lock:
            self.hands[worker] += 1
            self.most[worker] = max(self.most.get(worker, 0), self.hands[worker])

        def work() -> Rollouts:
            self.before(worker, block)
            rollouts = _hand(held).draw(block)
            with self.lock:
                self.hands[worker] -= 1
            return rollouts

        return held.ask(work)

    def ping(self, worker: int) -> Future[Any]:
        self.log.append(("ping", worker, 0))
        future: Future[Any] = Future()
        if self.workers[worker].stopped.is_set():
            future.set_result(None)
        return future

    def kill(self, worker: int) -> None:
        self.log.append(("kill", worker, 0))
        self.workers[worker].die()

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> None:
        self.versions[version] = {name: value.clone() for name, value in weights.items()}

    def drop(self, version: int) -> None:
        del self.versions[version]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.die()

    def drawn_by(self) -> dict[int, list[int]]:
        """Worker -> first groups of the blocks that it was asked to draw."""
        return {w: [g for what, who, g in self.log if (what, who) == ("draw", w)] for w in range(self.size)}


def _hand(worker: Worker) -> Hand:
    assert worker.hand is not None
    return worker.hand


def blocks(prompts: int, version: int = 1, first: int = 0, n: int = 2, size: int = 2, long: int = 8) -> list[Block]:
    """A call of `prompts` prompts of one to three tokens, `size` a block."""
    ids = [tuple(range(1 + i % 3)) for i in range(prompts)]
    settings = Sampling(max_tokens=long, block=size)
    return cut([f"p{i}" for i in range(prompts)], ids, n, settings, pack_key(0, 0, 0), first, version)
