"""What a run will amount to before it starts (`--dry-run`), and what a resumed run may not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rekindle.core.types import ENTROPY_OLD
from rekindle.errors import InputError
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.lazy import looked_at
from rekindle.train import options
from rekindle.train.account import Estimate, estimate
from rekindle.train.config import Resolved
from rekindle.train.engine_memory import BYTES, engine_bytes, engine_least, pushed_bytes
from rekindle.train.footprint import Footprint, check_targets, footprint
from rekindle.train.hardware import Hardware, own
from rekindle.train.launch import placed
from rekindle.train.lengths import Lengths, lengths, with_rows
from rekindle.train.ranks import Place
from rekindle.train.ruled import lockstep
from rekindle.train.searches import drawn_and_trained
from rekindle.train.settings import RunConfig, Voting, parts
from rekindle.train.snapshots import own_passes
from rekindle.train.teacher import teacher_size
from rekindle.train.vocabulary import Step, descents, step_of
from rekindle.train.workload import Setup, Work

FREE = (
    *("out", "empty_steps", "track.sinks", "vllm.url", "vllm.token_file", "ranks", "shard", "watch.stop"),
    *("grading.sandbox", "grading.unsafe_sandbox"),
    *(f"ray.{name}" for name in ("address", "samplers", "depth", "cpus", "gpus", "health", "restarts")),
)
"""Options that may differ between a run and its resumption, as all of `guards` may."""
QUANTIZED = {"8bit": 1.0, "4bit": 0.57}  # bytes a weight, the scales of its blocks included


@dataclass(frozen=True)
class Row:
    """One line of a plan. origin: the layer that an option comes from, "derived" for a number that follows."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run before it starts: what a step is, how long its texts are, and what it needs on which hardware."""

    resolved: Resolved
    step: Step
    lengths: Lengths
    model: Footprint
    hardware: Hardware
    setup: Setup
    work: Work

    @property
    def memory(self) -> Estimate:
        """Of one rank."""
        return estimate(self.model, self.setup, self.work)

    @property
    def room(self) -> int:
        """Bytes that a rank may take."""
        return self.hardware.room(self.step.ranks)

    @property
    def fits(self) -> bool:
        """Whether a rank's memory suffices, a sampling engine has what it needs, and responses have room."""
        return self.memory.peak <= self.room and not self.engine_lacks and self.responses_fit

    @property
    def engine_lacks(self) -> bool:
        """Whether vLLM's share of a GPU is less than it needs to start."""
        least = engine_least(self.resolved, self.model, self.lengths, self.hardware)
        return least > engine_bytes(self.resolved, self.model, self.lengths, self.hardware)

    @property
    def responses_fit(self) -> bool:
        """Whether the longest response fits into the model's context, beside the longest prompt where that is known."""
        prompt = self.lengths.longest if self.lengths.known else 1
        return self.model.context is None or prompt + self.lengths.response <= self.model.context

    @property
    def epochs(self) -> float | None:
        """How often the run sees each prompt, None where the data is a stream."""
        prompts = self.lengths.prompts
        return None if prompts is None else self.step.prompts * self.resolved.config.steps / prompts

    def numbers(self) -> dict[str, Any]:
        """The plan as plain values: sizes in bytes, lengths in tokens."""
        step, memory = self.step, self.memory
        return {
            "model": {"kind": self.model.kind, "parameters": self.model.parameters, "layers": self.model.layers},
            "step": {
                **asdict(step),
                "sampled": step.sampled,
                "trained": step.trained,
                "updates": step.updates,
                "minibatch_sizes": list(step.minibatch_sizes),
                "passes": step.passes,
                "passes_a_rank": step.passes_a_rank,
                "idle_passes": step.idle_passes,
                "blocks": step.blocks,
                "blocks_a_rank": step.blocks_a_rank,
            },
            "elsewhere": step.elsewhere(),
            "problems": list(step.problems()),
            "tokens": asdict(self.lengths),
            "run": {"steps": self.resolved.config.steps, "epochs": self.epochs, **_totals(self)},
            "hardware": {**asdict(self.hardware), "room_a_rank": self.room},
            "memory": {**asdict(memory), "peaks": memory.peaks, "peak": memory.peak, "fits": self.fits},
        }


def _totals(plan: Plan) -> dict[str, int]:
    steps = plan.resolved.config.steps
    return {"updates": plan.step.updates * steps, "samples": plan.step.sampled * steps}


def planned(resolved: Resolved, task: Task, hardware: Hardware | None = None) -> Plan:
    """The plan of a run on `hardware` (None: this machine). Reads the data, the tokenizer and the configuration only.

    With assumed GPUs there is a rank for each, unless the user says how many. InputError where the model's
    configuration cannot be read.
    """
    where = hardware or own(resolved.config.device)
    if where.assumed and where.gpus > 1 and resolved.origin["ranks"] == "default":
        resolved = placed(resolved, Place(0, where.gpus, 0))
    step, model = with_rows(step_of(resolved), resolved.record, task), footprint(resolved.config.model, task.name)
    if resolved.config.lora.rank and not model.adapter:
        check_targets(model, resolved.config.lora.targets)
    found = lengths(resolved, task)
    return Plan(
        resolved=resolved,
        step=step,
        lengths=found,
        model=model,
        hardware=where,
        setup=setup_of(resolved, model, step, found, where),
        work=with_evaluation(work_of(resolved, model, step, found, where), resolved, task),
    )


def setup_of(resolved: Resolved, model: Footprint, step: Step, found: Lengths, hardware: Hardware) -> Setup:
    """How the run holds its model."""
    config, methods = resolved.config, resolved.record.methods
    element, quantize = BYTES[config.dtype], config.lora.quantize
    lora, heads = config.lora.rank or model.adapter, resolved.record.heads()
    needs = {need for one in methods for need in one.needs()}
    models = resolved.record.passes() | {name for need in needs for name in need.passes}
    copies = len(own_passes(models)) + (config.embed == "policy" or "reference" in models)
    rest = model.parameters - model.linear
    narrow = (QUANTIZED.get(quantize, element) * model.linear + element * rest) / model.parameters
    engine = 0 if _sleeps(resolved, hardware) else engine_bytes(resolved, model, found, hardware)
    return Setup(
        element=element,
        narrow=config.precision == "bf16",
        checkpointing=config.checkpointing,
        lora=lora,
        targets=model.own if model.adapter else config.lora.targets,
        base=narrow,
        heads=len(heads) * (model.hidden + 1),
        copies=0 if lora else copies,
        teacher=teacher_size(config, models),
        ranks=step.ranks if step.sharded else 1,
        copy=element if step.sharded and step.ranks > 1 else 0,
        tables=(1 + len(models) + 3 * (ENTROPY_OLD in needs)) if needs else 0,
        engine=engine,
        gpu=hardware.gpu,
        searches=step.searches,
    )


def work_of(resolved: Resolved, model: Footprint, step: Step, found: Lengths, hardware: Hardware) -> Work:
    """What one rank computes at once."""
    config = resolved.config
    here = config.rollout.sampler == "local"
    return Work(
        rows=0 if step.searches else min(max(d.micro_batch for d in descents(resolved)), max(step.minibatch_sizes)),
        group=step.group,
        prompt=found.longest,
        response=found.response,
        pieces=step.passes_a_rank,
        block=step.block if here and step.samples else 0,
        samples=step.samples if here else 0,
        engine=engine_bytes(resolved, model, found, hardware) if _sleeps(resolved, hardware) else 0,
        pushed=pushed_bytes(resolved, model),
        truncates=config.rollout.top_k > 0 or config.rollout.top_p < 1,
        lockstep=lockstep(resolved.record),
    )


def with_evaluation(work: Work, resolved: Resolved, task: Task) -> Work:
    """With what evaluations sample here: while the run trains, or of its start model alone.

    The latter is the baseline of a method that votes, on data with answers.
    """
    config = resolved.config
    votes = any(isinstance(part, Voting) and part.votes is True for part in parts(resolved.record))
    baseline = config.evaluate.baseline and votes
    known = config.evaluate.every or (baseline and any(e.answer is not None for e in looked_at(task.split("train"))))
    samples = config.evaluate.samples if known and config.rollout.sampler == "local" else 0
    return replace(work, evaluated=samples, at_start=not config.evaluate.every)


def _sleeps(resolved: Resolved, hardware: Hardware) -> bool:
    """Whether vLLM gives its memory back while the model trains."""
    return hardware.gpu and resolved.config.vllm.sleep


def plan(resolved: Resolved) -> list[Row]:
    """The numbers that follow from the options, then every option with its origin (`--dry-run`)."""
    rows = [Row(name, value, "derived") for name, value in derived(resolved).items()]
    return rows + [Row(path, value, resolved.origin[path]) for path, value in resolved.options.items()]


def derived(resolved: Resolved) -> dict[str, int]:
    """Samples, trained rows, updates and tokens that a step and the run amount to; tokens are upper bounds."""
    config, flat = resolved.config, resolved.options
    samples, trained = drawn_and_trained(resolved.record, config.rollout)
    numbers = {"steps": config.steps, "samples a step": samples, "samples in all": samples * config.steps}
    if samples:  # else the data says how many rows there are
        most = samples * config.rollout.max_tokens
        numbers |= {"trained rows a step": trained, "response tokens a step, at most": most}
    if "descent.epochs" in flat and "descent.minibatches" in flat:
        units = config.rollout.prompts * (config.rollout.group if flat["descent.cut_groups"] else 1)
        updates = flat["descent.epochs"] * min(flat["descent.minibatches"], units)
        numbers |= {"updates a step": updates, "updates in all": updates * config.steps}
    return numbers


def compare_for_resume(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of the options that differ between two flat sets, sorted; where events go does not count."""
    usual = RunConfig(method="").flat()  # an option that an older version did not have stood at its default
    old = {**{name: usual[name] for name in new.keys() & usual.keys()}, **old}
    names = {name for name in old.keys() | new.keys() if name not in FREE and not name.startswith("guards.")}
    return sorted(name for name in names if name not in old or name not in new or old[name] != new[name])


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError naming the options that a resumed run may not change."""
    changed = compare_for_resume(old, new)
    if changed:
        said = ", ".join(f"{n} ({options.show(old.get(n))} -> {options.show(new.get(n))})" for n in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise InputError(f"--resume with changed options: {said}{more}; give the old ones back, or another --out")
