"""TRL's updates (1.16: `GRPOConfig`): AdamW's numbers, the learning rate's schedule, and sizes, read as ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rekindle.core.schedules import Cosine, Linear, Warmup
from rekindle.interop.explain.given import Given
from rekindle.interop.explain.wanted import Change, rate
from rekindle.train.aliases import SAME_VALUE

NUMBERS = ("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm")
SIZES = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "generation_batch_size",
)
ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused")
"""Names of transformers for AdamW with states in full precision."""
DEFAULTS = {
    **{"learning_rate": 1e-6, "weight_decay": 0.0, "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.999},
    **{"num_generations": 8, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
}
"""What TRL takes where a configuration does not say."""


def numbers(given: Given, descent: Any) -> Any:
    """AdamW's numbers and the iterations, where the configuration says them."""
    own = {name: SAME_VALUE[name].rpartition(".")[2] for name in (*NUMBERS, "learning_rate")}
    said = {ours: float(given.number(name)) for name, ours in own.items() if given.has(name)}
    _left(given, [name for name in own if not given.has(name)], {n: vars(descent)[o] for n, o in own.items()})
    if given.text("optim", ADAMW[0]) not in ADAMW:
        given.refused("optim", "AdamW with states in full precision is the one optimiser here")
    return replace(descent, **said, epochs=given.whole("num_iterations", 1))


def _left(given: Given, names: list[str], ours: dict[str, Any]) -> None:
    """Note our defaults that stay, where TRL's are others."""
    given.left += [f"{n}: {ours[n]} here; TRL's default is {DEFAULTS[n]}" for n in names if ours[n] != DEFAULTS[n]]


def schedule(given: Given) -> dict[str, Change]:
    """The learning rate's scheduler, over TRL's updates there and over our steps here."""
    # Where no scheduler is said, a warm-up that is said is kept: TRL's default has one, too.
    kind, lr = given.text("lr_scheduler_type", "constant_with_warmup"), given.number("learning_rate", 1e-6)
    least = given.number("lr_scheduler_kwargs.min_lr", 0.0)
    if not given.has("lr_scheduler_type"):
        given.left.append("lr_scheduler_type: constant here; TRL's default is linear, to 0")
    shapes: dict[str, Any] = {
        "cosine": Cosine(lr, 0.0),
        "cosine_with_min_lr": Cosine(lr, least),
        "linear": Linear(lr, 0.0),
    }
    then = shapes.get(kind, float(lr))
    if kind not in (*shapes, "constant", "constant_with_warmup"):
        given.refused("lr_scheduler_type", "no such schedule here: left constant")
    share = 0.0 if kind == "constant" else _warm(given)
    if kind == "constant":
        given.used |= {"warmup_steps", "warmup_ratio"}
    if kind not in shapes and not share:
        return {}
    return {f"lr_scheduler_type={kind}, warm-up {share:.6g}": rate(Warmup(share, then) if share else then)}


def _warm(given: Given) -> float:
    """The share of the run that warms up: a number below 1 as it stands, a count of updates by `max_steps`."""
    ratio, steps = given.number("warmup_ratio", 0.0), given.number("warmup_steps", 0.0)
    if not 0 <= ratio < 1:
        raise given.wrong("warmup_ratio", "a share of the run, from 0 up to below 1")
    if steps < 0:
        raise given.wrong("warmup_steps", "a share of the run or a count of updates, from 0 up")
    if steps < 1:
        return float(steps or ratio)
    updates = _updates(given)
    if updates is None:
        given.refused("warmup_steps", "a count of updates is a share of max_steps, which is not said: no warm-up")
        return 0.0
    if steps >= updates:
        raise given.wrong("warmup_steps", f"below max_steps ({updates})")
    return int(steps) / updates


def _updates(given: Given) -> int | None:
    """max_steps; TRL's own -1, and 0, say nothing."""
    said = given.number("max_steps")
    return None if said is None or said <= 0 else given.whole("max_steps")


def sizes(given: Given, descent: Any) -> tuple[dict[str, Any], Any]:
    """Prompts a step, minibatches and rows a forward pass from TRL's counts of completions; one process is assumed."""
    rows, pieces, steps, batch = (given.whole(name) for name in SIZES)
    if not any(given.has(name) for name in SIZES):
        given.left.append("prompts a step and minibatches: ours; TRL's default is 8 completions a step, one prompt")
        return _steps(given, descent.epochs * descent.minibatches), descent
    rows, pieces = rows or DEFAULTS[SIZES[0]], pieces or DEFAULTS[SIZES[1]]
    group = given.whole("num_generations", DEFAULTS["num_generations"])
    uneven = bool(batch and not steps and batch % rows)
    steps = steps or (batch // rows if batch else pieces)
    if uneven or not steps or rows * steps % group or steps % pieces:
        name = next(name for name in SIZES if given.has(name))
        text = f"{batch if uneven else rows * steps} completions a step are no whole groups of {group}"
        raise given.wrong(name, f"no fit: {text}, or no whole updates; it")
    given.means.append(
        f"per_device_train_batch_size={rows} counts completions on a device: here descent.micro_batch, memory only; a "
        f"step has {rows * steps // group} prompts (of one process; with N, N times as many)"
    )
    minibatches = steps // pieces
    cut = replace(descent, minibatches=minibatches, micro_batch=rows, cut_groups=minibatches > 1)
    found = {"rollout.prompts": rows * steps // group, "rollout.group": group}
    return {**found, **_steps(given, minibatches * descent.epochs)}, cut


def _steps(given: Given, updates: int) -> dict[str, Any]:
    """Steps of ours, each of so many updates."""
    said = _updates(given)
    if said is None:
        return {}
    steps = max(round(said / updates), 1)
    uneven = "" if steps * updates == said else f": {said / updates:.6g} steps, {steps} here"
    given.means.append(f"max_steps={said} counts updates; a step of ours takes {updates} of them{uneven}")
    return {"steps": steps}
