"""`train --dry-run`: the plan of a run in a few lines, then every option with its value and where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rekindle.cli.common import print_json, print_table, say
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.config import Resolved
    from rekindle.train.plan import Plan
    from rekindle.train.probe import Speed

TIGHT = 0.1
"""Share of the memory that should be left: what an allocator loses to fragmentation is not in the account."""

Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Dry:
    """How a plan is asked for. gpus: of `--assume-gpus`, None for this machine. probe: whether speed is measured."""

    json: bool = False
    gpus: str | None = None
    probe: bool = True


def dry_run(resolved: Resolved, task: Any, dry: Dry) -> None:
    """Print the plan. InputError for what no run does, and, after it is printed, for a plan that does not fit."""
    from rekindle.train.fits import refusal
    from rekindle.train.hardware import assumed
    from rekindle.train.plan import planned
    from rekindle.train.refusals import check_reads, check_run
    from rekindle.train.source import data_rewards

    data_rewards(resolved.config, task)  # what a run would be refused for
    check_reads(resolved, task)  # before responses that the data brings are counted
    plan = planned(resolved, task, None if dry.gpus is None else assumed(dry.gpus))
    check_run(plan.resolved, task, here=dry.gpus is None)
    for note in plan.resolved.notes[len(resolved.notes) :]:
        say(f"note: {note}")
    refused, speed = refusal(plan), speed_of(plan, task, dry)
    if dry.json:
        print_json(as_json(plan, speed))
    else:
        print_plan(plan, speed)
    if refused is not None:
        raise InputError(refused)


def speed_of(plan: Plan, task: Any, dry: Dry) -> Speed | str:
    """What the probe measured, or why nothing was measured."""
    from rekindle.train.probe import probe

    if dry.gpus is not None:
        return "not measured: the GPUs are assumed"
    if not dry.probe:
        return "not measured (--no-probe)"
    return probe(plan, task) if plan.fits else "not measured: the plan does not fit"


def as_json(plan: Plan, speed: Speed | str) -> dict[str, Any]:
    """{OPTION: {value, from}} of what follows from the options and of every option, and "plan": the numbers.

    An option's value that is no number, text, truth value or list of them is the text that the table shows.
    """
    from rekindle.train.plan import plan as rows

    found: dict[str, Any] = {row.name: {"value": plain(row.value), "from": row.origin} for row in rows(plan.resolved)}
    told = {"skipped": speed} if isinstance(speed, str) else asdict(speed)
    return {**found, "plan": {**plan.numbers(), "speed": told}}


def print_plan(plan: Plan, speed: Speed | str) -> None:
    """The plan, then the table of options."""
    from rekindle.train.options import show

    config = plan.resolved.config
    size = f"{plan.model.parameters / 1e9:.3g} B" if plan.model.parameters > 1e8 else f"{plan.model.parameters:,}"
    source = config.task or config.data
    print(f"{config.method} on {source}: {plan.model.kind}, {size} parameters in {plan.model.layers} layers\n")
    print_table(("", ""), [*step_lines(plan), *memory_lines(plan), *speed_lines(plan, speed)])
    print()
    rows = [(path, show(value), plan.resolved.origin[path]) for path, value in plan.resolved.options.items()]
    print_table(("option", "value", "from"), rows)


def step_lines(plan: Plan) -> Lines:
    """What a step and the run are, in the package's words and in those of others."""
    step, config = plan.step, plan.resolved.config
    of = "" if plan.lengths.prompts is None else f" of {plan.lengths.prompts:,} in the data"
    limit = config.rollout.max_tokens
    lines = [
        ("prompts", f"{step.prompts} a step{of}"),
        *(_search_lines(plan) if step.searches else _train_lines(plan)),
        *_rank_lines(plan),
        *((f"in {name}", text) for name, text in step.elsewhere().items()),
        ("run", _run_line(plan)),
    ]
    most, context = plan.lengths.longest + limit, plan.model.context
    if context is not None and most > context:
        lines.append(("context", f"{context:,} tokens: a prompt and a response may together have {most:,}"))
    return lines + [("uneven", text) for text in step.problems()]


def _train_lines(plan: Plan) -> Lines:
    step, sizes, limit = plan.step, plan.step.minibatch_sizes, plan.resolved.config.rollout.max_tokens
    even = f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes))
    drawn = f"{step.samples} responses a prompt are drawn, {step.group} of them are trained on"
    return [
        ("group", drawn if step.samples else f"{step.group} responses a prompt at most, which the data brings"),
        ("sequences", f"{step.sampled:,} sampled, {step.trained:,} trained on a step"),
        ("prompt tokens", f"{plan.lengths}"),
        ("response tokens", f"{limit} at most: {step.sampled * limit:,} sampled, {step.trained * limit:,} trained on"),
        ("updates", f"{step.updates} a step: {step.epochs} epoch{_s(step.epochs)} of {even} sequences"),
    ]


def _search_lines(plan: Plan) -> Lines:
    step, limit = plan.step, plan.resolved.config.rollout.max_tokens
    return [
        ("candidates", f"{step.candidates} a step, one response each to every prompt: {step.sampled:,} sequences"),
        ("prompt tokens", f"{plan.lengths}"),
        ("response tokens", f"{limit} at most: {step.sampled * limit:,} sampled"),
        ("updates", "none: the weights follow the best candidates"),
    ]


def _rank_lines(plan: Plan) -> Lines:
    step = plan.step
    whose = "rank 0 for all" if step.leader else f"{step.blocks_a_rank} of {step.blocks} a rank"
    kind = "a share of the weights each" if step.sharded and step.ranks > 1 else "all weights each"
    if step.searches:
        whose = f"all of them for each of a rank's {-(-step.candidates // step.ranks)} candidates"
    idle = f", {step.idle_passes} idle turn{_s(step.idle_passes)} an update" if step.idle_passes else ""
    blocks = [("blocks", f"of {step.block} prompt{_s(step.block)} are sampled together: {whose}")]
    lines = [("ranks", f"{step.ranks} ({kind})" if step.ranks > 1 else "1"), *(blocks if step.samples else [])]
    if step.searches:
        return lines
    return [
        *lines,
        (
            "micro-batch",
            f"{step.rows} sequences a forward pass of a rank ({plan.work.tokens:,} tokens at most), "
            f"{step.passes_a_rank} an update{idle}",
        ),
    ]


def _run_line(plan: Plan) -> str:
    steps, epochs = plan.resolved.config.steps, plan.epochs
    seen = "" if epochs is None else f", {epochs:.3g} epochs of the data"
    return f"{steps:,} steps, {plan.step.updates * steps:,} updates, {plan.step.sampled * steps:,} samples{seen}"


def memory_lines(plan: Plan) -> Lines:
    """The memory of a rank, term by term, and whether there is enough."""
    from rekindle.train.account import gib
    from rekindle.train.fits import refusal

    memory = plan.memory

    def terms(part: Any) -> str:
        return ", ".join(f"{name} {gib(size)}" for name, size in part.items())

    lines = [("memory", f"of a rank, estimated; held all the time: {gib(memory.always)}: {terms(memory.held)}")]
    without = {"evaluate": ", before there is an optimizer"} if memory.later else {}
    lines += [
        (f"to {name}", f"{gib(memory.peaks[name])}: and {terms(part)}{without.get(name, '')}")
        for name, part in memory.parts.items()
        if part
    ]
    what = f"{gib(plan.room)} a rank, of {plan.hardware}{', assumed' if plan.hardware.assumed else ''}"
    if plan.hardware.assumed and plan.resolved.config.device == "cpu":
        lines.append(("device", "cpu as asked for: there, add --device cuda"))
    if plan.fits:
        left = 1 - memory.peak / plan.room
        told = [("fits", f"in {what}: {left:.0%} are left")]
        if left < TIGHT:
            told.append(("tight", "fragmentation is not counted, and takes some of this: plan for 10% or more"))
        return [*lines, *told]
    if memory.peak <= plan.room:
        return [*lines, ("refused", str(refusal(plan)))]
    return [*lines, ("does not fit", f"in {what}: {str(refusal(plan)).rpartition(': ')[2]}")]


def speed_lines(plan: Plan, speed: Speed | str) -> Lines:
    """What was measured, and what follows from it for the run."""
    if isinstance(speed, str):
        return [("speed", speed)]
    parts = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in speed.step.items() if seconds)
    shape = f"{speed.prompts} x {speed.samples} responses of at most {speed.tokens} tokens"
    cut = "less than the run's shape, which takes less time a token" if speed.cut else "the run's shape"
    most = "at most " if speed.cut else ""
    return [
        ("speed", f"{speed.sampling:,.0f} tokens a second are sampled by a rank, {speed.response:.0f} a response"),
        ("a step", f"{most}{sum(speed.step.values()):.3g} s ({parts}), the run {most}{_hours(speed.run)}"),
        (
            "measured",
            f"in {speed.seconds:.1f} s on {shape} and a forward pass of {speed.rows} ({cut}); without grading, "
            f"evaluation{', exchange between ranks' if plan.step.ranks > 1 else ''} and checkpoints, and other work on "
            "this machine slows it down",
        ),
    ]


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.2g} minutes"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def plain(value: Any) -> Any:
    """An option's value as JSON holds it."""
    from rekindle.train.options import show

    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else show(value)
