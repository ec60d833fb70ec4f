"""Whether a plan fits into the memory there is, which options would make it fit, and the refusal where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

from rekindle.errors import InputError
from rekindle.tokens.tasks.base import Task
from rekindle.train.account import Setup, Work, estimate, gib
from rekindle.train.config import Resolved
from rekindle.train.engine_memory import engine_bytes, engine_least
from rekindle.train.footprint import adapter_rank, footprint
from rekindle.train.hardware import Hardware, own
from rekindle.train.lengths import Lengths
from rekindle.train.plan import QUANTIZED, Plan, setup_of, work_of
from rekindle.train.vocabulary import step_of

_RANK = 16  # of the adapters that are proposed
_SHOWN = 3


@dataclass(frozen=True)
class Change:
    """One option set otherwise, and what the plan's memory is computed from then."""

    option: str
    apply: Callable[[Setup, Work], tuple[Setup, Work]]


def remedies(plan: Plan) -> list[tuple[str, ...]]:
    """The smallest sets of options that make the plan fit, at most three; [] where none does.

    First those that leave all weights trained, then those with adapters. Fewer changes come first, and of one option
    the value that is nearest to the plan's.
    """
    milder, adapters = _kinds(plan), list(_adapters(plan))
    found = _smallest(plan, milder)[: _SHOWN - 1] if not plan.setup.lora else []
    return [*found, *_smallest(plan, [adapters, *milder] if adapters else milder, bool(adapters))][:_SHOWN]


def _smallest(plan: Plan, kinds: list[list[Change]], first: bool = False) -> list[tuple[str, ...]]:
    """The sets of the fewest changes. first: only sets that hold one of the first kind."""
    for count in range(1, len(kinds) + 1):
        sets = [some for some in combinations(kinds, count) if not first or some[0] is kinds[0]]
        found = [names for some in sets if (names := _fitting(plan, some)) is not None]
        if found:
            return found
    return []


def _fitting(plan: Plan, kinds: tuple[list[Change], ...]) -> tuple[str, ...] | None:
    for changes in product(*kinds):
        setup, work = plan.setup, plan.work
        for change in changes:
            setup, work = change.apply(setup, work)
        if estimate(plan.model, setup, work).peak <= plan.room:
            return tuple(change.option for change in changes)
    return None


def _kinds(plan: Plan) -> list[list[Change]]:
    """The options that save memory, each with its values, the mildest first; without those that are set already."""
    setup, step = plan.setup, plan.step
    kinds = [list(_micro_batches(plan)), list(_blocks(plan))]
    if not setup.checkpointing:
        kinds.append([Change("checkpointing=true", lambda s, w: (replace(s, checkpointing=True), w))])
    if step.ranks > 1 and not step.sharded:
        kinds.append([Change("shard=full", lambda s, w: (replace(s, ranks=step.ranks, copy=s.element), w))])
    return [kind for kind in kinds if kind]


def _micro_batches(plan: Plan) -> Iterator[Change]:
    rows, size = plan.work.rows, max(plan.step.minibatch_sizes)
    while rows > 1:
        rows //= 2
        pieces = math.ceil(math.ceil(size / rows) / plan.step.ranks)
        yield Change(f"descent.micro_batch={rows}", _work(rows=rows, pieces=pieces))


def _blocks(plan: Plan) -> Iterator[Change]:
    block = plan.work.block
    while block > 1:
        block //= 2
        yield Change(f"rollout.block={block}", _work(block=block))


def _work(**values: int) -> Callable[[Setup, Work], tuple[Setup, Work]]:
    return lambda setup, work: (setup, replace(work, **values))


def _adapted(setup: Setup, base: float | None = None) -> Setup:
    return replace(setup, lora=setup.lora or _RANK, base=base or float(setup.element), reference=False)


def _whole_again(setup: Setup) -> Setup:
    """Every rank with all weights."""
    return replace(setup, ranks=1, copy=0)


def _adapters(plan: Plan) -> Iterator[Change]:
    """LoRA, then with whole weights a rank where they are shared, then QLoRA, which wants a GPU and whole weights."""
    model, element, whole = plan.model, plan.setup.element, not plan.step.sharded
    fresh = "" if plan.setup.lora else f"lora.rank={_RANK} "
    if fresh:
        yield Change(fresh.strip(), lambda s, w: (_adapted(s), w))
    if not whole:
        yield Change(f"{fresh}shard=none", lambda s, w: (_whole_again(_adapted(s, s.base if s.lora else None)), w))
    if not plan.hardware.gpu or plan.resolved.config.lora.quantize != "none":
        return
    for name, size in QUANTIZED.items():
        base = (size * model.linear + element * (model.parameters - model.linear)) / model.parameters

        def apply(s: Setup, w: Work, base: float = base) -> tuple[Setup, Work]:
            return _whole_again(_adapted(s, base)), w

        yield Change(f"{fresh}lora.quantize={name}{'' if whole else ' shard=none'}", apply)


def refusal(plan: Plan) -> str | None:
    """The sentence for a plan that does not fit, None for one that does."""
    if plan.fits:
        return None
    if not plan.responses_fit:
        return _too_long(plan)
    if plan.engine_lacks:
        return _small_engine(plan)
    part, most = max(plan.memory.peaks.items(), key=lambda item: item[1])
    where = {"sample": "while it samples", "score": "while it scores", "update": "in an update"}[part]
    found = remedies(plan)
    ways = [" ".join(f"--set {option}" for text in way for option in text.split()) for way in found]
    cure = f"add {', or '.join(ways)}" if ways else "take a smaller model, or more memory"
    return (
        f"the plan does not fit: a rank needs {gib(most)} {where} and has {gib(plan.room)} of {plan.hardware}: {cure}"
    )


def _too_long(plan: Plan) -> str:
    """The sentence for responses that do not fit into the model's context."""
    found, context = plan.lengths, plan.model.context or 0
    prompt = found.longest if found.known else 1
    beside = f"beside prompts of up to {prompt} tokens " if found.known else ""
    most = context - prompt
    cure = f"set rollout.max_tokens to {most} or less" if most > 0 else "shorten or drop the longest prompts"
    return f"rollout.max_tokens={found.response} {beside}exceeds the model's context of {context} tokens: {cure}"


def _small_engine(plan: Plan) -> str:
    """The sentence for a vLLM whose share of a GPU does not hold its weights."""
    said = (plan.resolved, plan.model, plan.lengths, plan.hardware)
    least, memory = engine_least(*said), plan.hardware.memory
    shared = math.ceil(100 * least / memory) / 100
    raised = f"set vllm.memory={shared:g}, " if shared < 1 else ""
    return (
        f"the plan does not fit: vLLM needs {gib(least)} for its weights and the cache of one response, and "
        f"vllm.memory={plan.resolved.config.vllm.memory:g} of {plan.hardware} is {gib(engine_bytes(*said))}: {raised}"
        "take a smaller model, or sample elsewhere (--sampler ray, or vllm.url)"
    )


def refuse_hopeless(resolved: Resolved, task: Task) -> None:
    """InputError where weights, gradients and optimiser alone exceed the memory of this machine. Reads no weights."""
    config, hardware = resolved.config, own(resolved.config.device)
    try:
        model, step = footprint(config.model, task.name), step_of(resolved)
    except InputError:
        return  # who loads the model says what is wrong with it
    none = Lengths(prompts=None, looked_at=0, mean=0.0, longest=1, response=1, known=False)
    setup = setup_of(resolved, model, step, none, hardware)
    work = work_of(resolved, model, step, none, hardware)
    held = estimate(model, replace(setup, engine=0), replace(work, rows=1, block=0, pieces=2))
    least = held.held["weights"] + held.held.get("optimizer", 0) + held.update.get("gradients", 0)
    have = _whole(hardware, step.ranks)
    if least > have:
        adapters = config.lora.rank or adapter_rank(config.model)
        cure = "take a smaller model" if adapters else f"set lora.rank={_RANK}, or take a smaller model"
        raise InputError(
            f"model '{config.model}' needs {gib(least)} a rank for weights, gradients and optimiser alone, and "
            f"{hardware} gives it {gib(have)}: {cure} (`--dry-run` tells what fits)"
        )


def _whole(hardware: Hardware, ranks: int) -> int:
    """All memory of a rank, nothing set aside."""
    return hardware.memory // (-(-ranks // hardware.gpus) if hardware.gpu else ranks)
