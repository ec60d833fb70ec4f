"""One vocabulary for what a step does: prompts, groups, sequences, updates, ranks; and what does not come out even."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rekindle.core.evolution import Evolution
from rekindle.core.method import Descent
from rekindle.train.config import Resolved
from rekindle.train.settings import RunConfig, samples_per_prompt


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step amounts to. samples: drawn a prompt (all vote; 0: the data brings them); group: those trained on.

    minibatches: of an epoch, each one update; a unit of them is a prompt, or a sequence with `cut`. micro_batch:
    sequences a forward pass. ranks: processes that share the step; leader: one of them samples for all. candidates:
    weights that are tried; they are shared by the ranks, and none is trained on (no minibatches).
    """

    prompts: int
    samples: int
    group: int
    epochs: int
    minibatches: int
    micro_batch: int
    block: int
    ranks: int = 1
    cut: bool = False
    leader: bool = False
    sharded: bool = False
    candidates: int = 1

    @property
    def searches(self) -> bool:
        """Whether weights are tried instead of updated."""
        return self.minibatches == 0

    @property
    def sampled(self) -> int:
        """Sequences sampled."""
        return self.prompts * self.samples * self.candidates

    @property
    def trained(self) -> int:
        """Sequences trained on."""
        return 0 if self.searches else self.prompts * self.group

    @property
    def minibatch_sizes(self) -> tuple[int, ...]:
        """Sequences of each minibatch of an epoch, as `Descent.split` cuts them: the first ones are the larger ones."""
        if self.searches:
            return ()
        units, each = (self.trained, 1) if self.cut else (self.prompts, self.group)
        parts = min(self.minibatches, units)
        return tuple(each * (units // parts + (i < units % parts)) for i in range(parts))

    @property
    def updates(self) -> int:
        """Optimiser updates."""
        return self.epochs * len(self.minibatch_sizes)

    @property
    def rows(self) -> int:
        """Sequences of the largest forward pass."""
        return min(self.micro_batch, max(self.minibatch_sizes, default=0))

    @property
    def passes(self) -> int:
        """Forward passes of the largest minibatch, over all ranks."""
        return 0 if self.searches else -(-max(self.minibatch_sizes) // self.micro_batch)

    @property
    def passes_a_rank(self) -> int:
        """Forward passes of the largest minibatch that the busiest rank takes."""
        return -(-self.passes // self.ranks)

    @property
    def idle_passes(self) -> int:
        """Turns of the largest minibatch in which a rank has no piece of its own; with shard=full it computes along."""
        return self.passes_a_rank * self.ranks - self.passes

    @property
    def blocks(self) -> int:
        """Blocks of prompts that are decoded."""
        return -(-self.prompts // self.block)

    @property
    def blocks_a_rank(self) -> int:
        """Blocks that the busiest rank decodes."""
        return self.blocks if self.leader or self.searches else -(-self.blocks // self.ranks)

    @property
    def drawing_share(self) -> float:
        """The busiest rank's share of what is sampled, 0 to 1."""
        if self.searches:
            return -(-self.candidates // self.ranks) / self.candidates
        return self.blocks_a_rank / self.blocks

    def problems(self) -> tuple[str, ...]:
        """What does not come out even, each with its remedy. Nothing of it is wrong, and nothing is rounded."""
        if self.searches:
            return self._idle_searchers()
        return tuple(
            text
            for text in (self._uneven_minibatches(), self._few_units(), self._uneven_passes(), *self._idle_ranks())
            if text
        )

    def _idle_searchers(self) -> tuple[str, ...]:
        if self.candidates % self.ranks == 0:
            return ()
        even = -(-self.candidates // self.ranks) * self.ranks
        uneven = f"{self.candidates} candidates do not divide among {self.ranks} ranks: some wait"
        return (f"{uneven}; set search.population={even}",)

    def _few_units(self) -> str:
        if len(self.minibatch_sizes) == self.minibatches:
            return ""
        unit = "sequence" if self.cut else "prompt"
        more = "" if self.cut else ", or descent.cut_groups=true"
        return (
            f"descent.minibatches={self.minibatches}, but a minibatch holds at least one {unit}: there are "
            f"{len(self.minibatch_sizes)} updates an epoch; set descent.minibatches={len(self.minibatch_sizes)}, or "
            f"rollout.prompts={self._even_prompts()}{more}"
        )

    def _uneven_minibatches(self) -> str:
        sizes = self.minibatch_sizes
        if len(set(sizes)) == 1:
            return ""
        units, what = (self.trained, "sequences") if self.cut else (self.prompts, "prompts")
        even = max(n for n in range(1, len(sizes)) if units % n == 0)
        return (
            f"{units} {what} do not divide into {len(sizes)} minibatches: they hold {', '.join(map(str, sizes))} "
            f"sequences, and each is one update; set descent.minibatches={even} or "
            f"rollout.prompts={self._even_prompts()}"
        )

    def _uneven_passes(self) -> str:
        size = max(self.minibatch_sizes)
        left = size % self.micro_batch
        if left == 0 or size < self.micro_batch:
            return ""
        even = _cut(size, self.micro_batch, self.ranks) or _cut(size, self.micro_batch, 1)
        return (
            f"a minibatch of {size} sequences does not divide into forward passes of {self.micro_batch}: the last one "
            f"holds {left}, which costs time and changes nothing else; set descent.micro_batch={even}"
        )

    def _idle_ranks(self) -> Sequence[str]:
        told = []
        if self.idle_passes:
            along = "computes along for nothing (shard=full)" if self.sharded else "waits"
            fits = _cut(max(self.minibatch_sizes), self.micro_batch, self.ranks)
            cure = f"descent.micro_batch={fits}" if fits else f"ranks={self._even_ranks()}"
            told.append(
                f"{self.passes} forward passes an update do not divide among {self.ranks} ranks: in {self.idle_passes} "
                f"turns a rank {along}; set {cure}"
            )
        if self.samples and not self.leader and self.blocks % self.ranks:
            fits, even = _cut(self.prompts, self.block, self.ranks), self._even_prompts()
            cure = f"rollout.block={fits}" if fits else f"rollout.prompts={even} and rollout.block={even // self.ranks}"
            told.append(
                f"{self.blocks} blocks of {self.block} prompts do not divide among {self.ranks} ranks: some sample "
                f"less than others; set {cure}"
            )
        return told

    def _even_prompts(self) -> int:
        """The fewest prompts, not fewer than now, that divide into the minibatches and among the ranks that sample."""
        each = self.group if self.cut else 1
        ranks = 1 if self.leader else self.ranks
        step = math.lcm(self.minibatches // math.gcd(self.minibatches, each), ranks)
        return -(-self.prompts // step) * step

    def _even_ranks(self) -> int:
        """The most ranks, fewer than now, among which the passes of an update divide."""
        return max(n for n in range(1, self.ranks) if self.passes % n == 0)

    def elsewhere(self) -> dict[str, str]:
        """The same step in the words of two other libraries, of an update of the largest minibatch; {} for a search."""
        if self.searches or not self.samples:
            return {}
        rows = max(self.minibatch_sizes)
        return {
            "TRL": (
                f"per_device_train_batch_size {self.rows} x gradient_accumulation_steps {self.passes_a_rank} x "
                f"{self.ranks} rank{'s' if self.ranks > 1 else ''} = {rows} completions an update"
                + (f" ({self.idle_passes * self.rows} places idle)" if self.idle_passes else "")
                + f"; num_generations {self.samples}, generation_batch_size {self.sampled}, "
                f"num_iterations {self.epochs}"
            ),
            "verl": (
                f"train_batch_size {self.prompts}, rollout.n {self.samples}, ppo_mini_batch_size "
                f"{rows / self.group:.4g} (prompts), ppo_micro_batch_size_per_gpu {self.rows} (sequences), "
                f"ppo_epochs {self.epochs}"
            ),
        }


def _cut(total: int, most: int, ranks: int) -> int | None:
    """The largest piece up to `most` that cuts `total` into a multiple of `ranks` pieces, all alike; None for none."""
    sizes = range(min(most, total), 0, -1)
    return next((size for size in sizes if total % size == 0 and total // size % ranks == 0), None)


def step_of(resolved: Resolved) -> Step:
    """The step of a run. Of several stages, the first one's."""
    if isinstance(resolved.record, Evolution):
        return _searching(resolved.config, resolved.record)
    config, descent = resolved.config, descents(resolved)[0]
    rollout = config.rollout
    return Step(
        prompts=rollout.prompts,
        samples=samples_per_prompt(resolved.record, rollout),
        group=rollout.group,
        epochs=descent.epochs,
        minibatches=descent.minibatches,
        micro_batch=descent.micro_batch,
        block=min(rollout.block, rollout.prompts),
        ranks=config.ranks,
        cut=descent.cut_groups,
        leader=rollout.sampler == "ray" or (rollout.sampler == "vllm" and config.vllm.url is not None),
        sharded=config.shard == "full",
    )


def _searching(config: RunConfig, record: Evolution) -> Step:
    """A generation: one response of each candidate to each prompt."""
    return Step(
        prompts=config.rollout.prompts,
        samples=1,
        group=1,
        epochs=0,
        minibatches=0,
        micro_batch=0,
        block=min(config.rollout.block, config.rollout.prompts),
        ranks=config.ranks,
        candidates=record.search.population,
    )


def descents(resolved: Resolved) -> list[Descent]:
    """How each stage of the record descends: one of a plain method, none of one that searches."""
    return [method.descent for method in resolved.record.methods if not isinstance(method, Evolution)]
