"""Whether a plan fits into the memory there is, which options would make it fit, and the refusal where it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

from rekindle.errors import InputError
from rekindle.tokens.quantized import installed
from rekindle.tokens.tasks.base import Task
from rekindle.train.account import estimate, gib
from rekindle.train.config import Resolved
from rekindle.train.engine_memory import engine_bytes, engine_least
from rekindle.train.footprint import Footprint, Unmeasured, footprint
from rekindle.train.hardware import Hardware, own
from rekindle.train.lengths import Lengths
from rekindle.train.plan import QUANTIZED, Plan, setup_of, work_of
from rekindle.train.vocabulary import Step, step_of
from rekindle.train.workload import Setup, Work

_RANK = 16  # of the adapters that are proposed
_SHOWN = 3
_WHERE = {
    "sample": "while it samples",
    "score": "while it scores",
    "update": "in an update",
    "evaluate": "while it evaluates",
}


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
    if plan.setup.lora:
        more = _smallest(plan, [adapters, *milder], True) if adapters else []
        return [*_smallest(plan, milder), *more][:_SHOWN]
    whole = _smallest(plan, [*milder, *_shares(plan)])[: _SHOWN - 1]
    return [*whole, *_smallest(plan, [adapters, *milder], True)][:_SHOWN]


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
    kinds = [list(_micro_batches(plan)), list(_blocks(plan)), list(_evaluations(plan))]
    if not plan.setup.checkpointing and not plan.setup.searches:
        kinds.append([Change("checkpointing=true", lambda s, w: (replace(s, checkpointing=True), w))])
    return [kind for kind in kinds if kind]


def _shares(plan: Plan) -> list[list[Change]]:
    """Weights in shares, which all of them train in: no adapter goes with it."""
    step = plan.step
    if step.ranks == 1 or step.sharded:
        return []
    return [[Change("shard=full", lambda s, w: (replace(s, ranks=step.ranks, copy=s.element), w))]]


def _micro_batches(plan: Plan) -> Iterator[Change]:
    rows, size = plan.work.rows, max(plan.step.minibatch_sizes, default=0)
    while rows > 1:
        rows //= 2
        pieces = math.ceil(math.ceil(size / rows) / plan.step.ranks)
        yield Change(f"descent.micro_batch={rows}", _work(rows=rows, pieces=pieces))


def _blocks(plan: Plan) -> Iterator[Change]:
    block = plan.work.block
    while block > 1:
        block //= 2
        yield Change(f"rollout.block={block}", _work(block=block))


def _evaluations(plan: Plan) -> Iterator[Change]:
    samples = plan.work.evaluated
    while samples > 1:
        samples //= 2
        yield Change(f"evaluate.samples={samples}", _work(evaluated=samples))


def _work(**values: int) -> Callable[[Setup, Work], tuple[Setup, Work]]:
    return lambda setup, work: (setup, replace(work, **values))


def _adapted(setup: Setup, base: float | None = None) -> Setup:
    return replace(setup, lora=setup.lora or _RANK, base=base or float(setup.element), copies=0)


def _whole_again(setup: Setup) -> Setup:
    """Every rank with all weights."""
    return replace(setup, ranks=1, copy=0)


def _adapters(plan: Plan) -> Iterator[Change]:
    """LoRA, then QLoRA, which wants a GPU and bitsandbytes; with whole weights where they are shared."""
    model, element, config = plan.model, plan.setup.element, plan.resolved.config
    named = "" if config.lora.rank else f"lora.rank={plan.setup.lora or _RANK} "
    whole = " shard=none" if plan.step.sharded else ""
    if not plan.setup.lora:
        yield Change(f"{named.strip()}{whole}", lambda s, w: (_whole_again(_adapted(s)), w))
    if not plan.hardware.gpu or config.lora.quantize != "none" or not (plan.hardware.assumed or installed()):
        return
    for name, size in QUANTIZED.items():
        base = (size * model.linear + element * (model.parameters - model.linear)) / model.parameters

        def apply(s: Setup, w: Work, base: float = base) -> tuple[Setup, Work]:
            return _whole_again(_adapted(s, base)), w

        yield Change(f"{named}lora.quantize={name}{whole}", apply)


def refusal(plan: Plan) -> str | None:
    """The sentence for a plan that does not fit, None for one that does."""
    if plan.fits:
        return None
    if not plan.responses_fit:
        return _too_long(plan)
    if plan.engine_lacks:
        return _small_engine(plan)
    part, most = max(plan.memory.peaks.items(), key=lambda item: item[1])
    where = _WHERE[part]
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


def refuse_hopeless(resolved: Resolved, task: Task) -> str | None:
    """InputError where weights, gradients and optimiser alone exceed the memory of this machine. Reads no weights.

    A sentence where they cannot be told of this model, which stops no run.
    """
    config, hardware = resolved.config, own(resolved.config.device)
    try:
        model, step = footprint(config.model, task.name), step_of(resolved)
    except Unmeasured as error:
        return f"whether this machine has the memory was not checked: {str(error).partition(':')[0]}"
    except InputError:
        return None  # who loads the model says what is wrong with it
    least, have = _least(resolved, model, step, hardware), _whole(hardware, step.ranks)
    if least <= have:
        return None
    adapters = config.lora.rank or model.adapter
    whole = " and shard=none" if step.sharded else ""
    cure = "take a smaller model" if adapters else f"set lora.rank={_RANK}{whole}, or take a smaller model"
    raise InputError(
        f"model '{config.model}' needs {gib(least)} a rank for weights, gradients and optimiser alone, and "
        f"{hardware} gives it {gib(have)}: {cure} (`--dry-run` tells what fits)"
    )


def _least(resolved: Resolved, model: Footprint, step: Step, hardware: Hardware) -> int:
    """Bytes of weights, gradients and optimiser."""
    none = Lengths(prompts=None, looked_at=0, mean=0.0, longest=1, response=1, known=False)
    setup = setup_of(resolved, model, step, none, hardware)
    work = work_of(resolved, model, step, none, hardware)
    held = estimate(model, replace(setup, engine=0), replace(work, rows=1, block=0, pieces=2))
    return held.held["weights"] + held.held.get("optimizer", 0) + held.update.get("gradients", 0)


def _whole(hardware: Hardware, ranks: int) -> int:
    """All memory of a rank, nothing set aside."""
    return hardware.memory // (-(-ranks // hardware.gpus) if hardware.gpu else ranks)
