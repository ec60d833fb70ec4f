"""What a fleet knows of its workers and of the calls that it works on: who may take a block, and which is next."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.crew import Block


@dataclass(eq=False)
class Job:
    """One call: its blocks, those that nobody has yet, and what came back. future: all results, in order."""

    blocks: list[Block]
    waiting: list[Block]
    results: dict[int, Rollouts] = field(default_factory=dict)
    future: Future[list[Rollouts]] = field(default_factory=Future)

    @staticmethod
    def of(blocks: Sequence[Block]) -> Job:
        """A call of which nothing is done."""
        return Job(list(blocks), list(blocks))

    @property
    def open(self) -> int:
        """Blocks that are being drawn or wait to be taken."""
        return len(self.blocks) - len(self.waiting)

    def give_back(self, block: Block) -> None:
        """The block is to be handed out again, in its old place."""
        self.waiting = sorted([*self.waiting, block], key=lambda one: one.place)

    def finish(self, block: Block, rollouts: Rollouts) -> None:
        """A block is drawn; the last one completes the call."""
        self.results[block.place] = rollouts
        if len(self.results) == len(self.blocks) and not self.future.done():
            self.future.set_result([self.results[one.place] for one in self.blocks])

    def fail(self, error: BaseException) -> None:
        """The call ends with `error`; what is left of it is not handed out."""
        self.waiting.clear()
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class Task:
    """A block of a job in a worker's hands. cost: tokens that it was thought to take."""

    job: Job
    block: Block
    cost: float


@dataclass(eq=False)
class Seat:
    """A worker as the fleet sees it. life: how often it was started, so that what a dead one said is not heard.

    version: of the weights that it is proven to have. loading: of those that it takes now. late: tasks to be drawn
    once they are there. heard: when it last gave a sign, in seconds of the fleet's clock; pinged: since when it is
    asked for one.
    """

    index: int
    life: int = 0
    ready: bool = False
    version: int | None = None
    loading: int | None = None
    tasks: list[Task] = field(default_factory=list)
    late: list[Task] = field(default_factory=list)
    heard: float = 0.0
    pinged: float | None = None
    done: float = 0.0

    @property
    def tokens(self) -> float:
        """Tokens in its hands, as far as one can know before they are drawn."""
        return sum((task.cost for task in self.tasks), 0.0)

    @property
    def busy(self) -> bool:
        """Whether an answer is due."""
        return not self.ready or self.loading is not None or bool(self.tasks)

    def takes(self, block: Block, depth: int) -> bool:
        """Whether the block may be handed to it now."""
        return self.ready and len(self.tasks) < depth and self.loading in (None, block.version)

    def reborn(self, now: float) -> list[Task]:
        """A new life that knows nothing; the tasks that the old one leaves behind."""
        left, self.tasks, self.late = self.tasks, [], []
        self.life, self.ready, self.version, self.loading = self.life + 1, False, None, None
        self.heard, self.pinged = now, None
        return left


def next_task(jobs: Sequence[Job], seats: Sequence[Seat], depth: int, room: int) -> tuple[Seat, Job, Block] | None:
    """The oldest block that may be handed out, and the free seat with the fewest tokens in hand; None: not now.

    Calls that nobody waits for yet, all but the first, hold at most `room` blocks together, drawn ones included: where
    the run is slower than its samplers, they stop.
    """
    held = sum(job.open for job in jobs[1:])
    for job in jobs:
        if not job.waiting or (job is not jobs[0] and held >= room):
            continue
        block = job.waiting[0]
        free = [seat for seat in seats if seat.takes(block, depth)]
        if free:
            return min(free, key=lambda s: (s.tokens, s.version != block.version, s.index)), job, block
        return None
    return None
