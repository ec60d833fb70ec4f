"""(b) The sampler: Rekindle's own, transformers' `generate` and its continuous batching, and vLLM, on the same prompts.

Every round has prompts of its own, for in training the weights are new and nothing of an old round can be cached. Ours
also returns texts, log-probs and entropies; the others only tokens, which is their fastest way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.speed import ours
from benchmarks.speed.engine import CONTINUOUS, VLLM, Dead, Engine
from benchmarks.speed.models import EOS, SIZES, make_prompts, write_folder
from benchmarks.speed.paired import described, ratio, turns
from benchmarks.speed.step import JOBS, PROMPT_TOKENS
from benchmarks.speed.work import Lengths, forward_operations
from rekindle.core.random import pack_key
from rekindle.train.run import Run, sampling_of

ROUNDS = 32
FEW = 3  # rounds with continuous batching, which is slow on a CPU
Sides = dict[str, Callable[[], Lengths]]


class Prompts:
    """The prompts of each round, the same for all sides."""

    def __init__(self, run: Run, job: ours.Job) -> None:
        self.run, self.job = run, job
        self.round = 0
        self.examples: list[Any] = []
        self.ids: list[list[int]] = []

    def next(self) -> None:
        """The next round's prompts."""
        self.round += 1
        self.examples = self.run.next_examples(self.job.prompts)
        self.ids = [self.run.loaded.encode(example) for example in self.examples]

    def lengths(self, responses: list[list[int]]) -> Lengths:
        """What a side has done: its responses' lengths, prompt by prompt."""
        return Lengths(tuple(map(len, self.ids)), tuple(map(tuple, responses)))


def measure(name: str, pairs: int, work: Path, also: Sequence[str], vllm: str = "") -> dict[str, Any]:
    """The row of one size. also: the engines to measure. vllm: a Python that has vLLM, "" leaves it out."""
    size, job = SIZES[name], JOBS.get(name, ours.Job())
    folder = write_folder(work / "model", size, make_prompts(size.vocab, ROUNDS * job.prompts, *PROMPT_TOKENS))
    run = ours.make(folder, job)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = Prompts(run, job)
    own: Sides = {"rekindle": partial(rekindle, run, prompts), "generate": partial(generate, model, prompts)}
    missing: dict[str, str] = {}
    with engines([n for n in also if n in VLLM and vllm], vllm, folder, work, missing) as others:
        found = turns(own | others.sides(prompts), pairs, before=prompts.next)
    with engines([n for n in also if n == CONTINUOUS], "", folder, work, missing) as others:
        few = {"rekindle": own["rekindle"]} | others.sides(prompts)
        slow = turns(few, min(pairs, FEW), before=prompts.next) if len(few) > 1 else {}
    ratios = {
        side: ratio(seen, rounds["rekindle"])
        for rounds in (found, slow)
        for side, seen in rounds.items()
        if side != "rekindle"
    }
    return {
        "prompts": job.prompts,
        "group": job.group,
        "limit": job.limit,
        "sides": {side: described(seen, partial(forward_operations, size)) for side, seen in (slow | found).items()},
        "ratios": ratios,
        "missing": missing,
    }


def rekindle(run: Run, prompts: Prompts) -> Lengths:
    """The run's own sampler with the run's own settings."""
    key = pack_key(0, prompts.round, 0)
    return ours.lengths_of([run.sampler.sample(prompts.examples, prompts.job.group, sampling_of(run.resolved), key, 0)])


def generate(model: Any, prompts: Prompts) -> Lengths:
    """transformers' `generate` on the left-padded batch of all rows."""
    width = max(map(len, prompts.ids))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts.ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts.ids])
    job = prompts.job
    with torch.no_grad():
        rows = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=job.group,
            max_new_tokens=job.limit,
        )[:, width:]
    ended = (rows == EOS).int().cumsum(dim=1)
    sizes = ((ended == 0).sum(dim=1) + 1).clamp(max=rows.shape[1]).tolist()
    return prompts.lengths([sizes[i : i + job.group] for i in range(0, len(sizes), job.group)])


class Engines:
    """Samplers in processes of their own, by name."""

    def __init__(self, running: dict[str, Engine]) -> None:
        self.running = running

    def sides(self, prompts: Prompts) -> Sides:
        """What each does in a round."""
        return {name: partial(self._sample, engine, prompts) for name, engine in self.running.items()}

    def _sample(self, engine: Engine, prompts: Prompts) -> Lengths:
        return prompts.lengths(engine.sample(prompts.ids, prompts.job.group, prompts.job.limit))


@contextmanager
def engines(names: Sequence[str], python: str, folder: Path, work: Path, missing: dict[str, str]) -> Iterator[Engines]:
    """The engines `names` that start and take a first request; the reason in `missing` for one that does not."""
    running: dict[str, Engine] = {}
    try:
        for name in names:
            try:
                engine = Engine(name, python, folder, work / f"{name}.log")
                running[name] = engine
                engine.sample([[3, 4, 5]], 2, 4)
            except Dead as error:
                missing[name] = str(error)
                running.pop(name, None)
        yield Engines(running)
    finally:
        for engine in running.values():
            engine.close()
