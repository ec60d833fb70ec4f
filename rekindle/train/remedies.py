"""What a sign of a collapse is told as: one sentence with its evidence, and what to do in this run's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.errors import InputError
from rekindle.train.sections_watch import Watch
from rekindle.train.settings import RunConfig
from rekindle.train.signals import Finding
from rekindle.train.traces import Trace

PAGE = "docs/traps.md"
HIGH = 1.28
"""The upper clip bound of DAPO (arXiv 2503.14476)."""
BONUS = 0.003
"""Between 0.001, which did nothing, and 0.01, which exploded, in arXiv 2505.22617."""
BACK = "go back to the best evaluation's checkpoint and stop there"
CROWD = 0.5
"""Dead groups are mentioned beside falling entropy from this share on."""
SAID: Mapping[str, str] = {
    "entropy": "entropy fell from {before:.3g} to {now:.3g} nats in {steps} steps ({left:.0%} of the start)",
    "spent": "entropy fell from {before:.3g} to {now:.3g} nats in {steps} steps ({left:.0%} of the start)",
    "floor": "entropy is {now:.3g} nats a token, below {threshold:g} (it began at {before:.3g})",
    "slope": "entropy fell from {before:.3g} to {now:.3g} nats within {steps} steps",
    "dead": "{now:.0%} of the groups have no signal ({before:.0%} at the start)",
    "lock_in": "the commonest answer holds {now:.0%} of a prompt's responses ({before:.0%} at the start), and fewer "
    "different answers are given",
    "reward": "the score fell from {before:.3f} to {now:.3f}",
    "repetition": "{now:.0%} of a response's 4-grams repeat ({before:.0%} at the start)",
    "length": "responses went from {before:.3g} to {now:.3g} tokens",
    "truncated": "{now:.0%} of the responses are cut off ({before:.0%} at the start)",
    "update_kl": "an update moves the policy by {now:.2g} nats a token (k3), more than {threshold:g}",
    "clip": "{now:.0%} of the tokens are clipped",
    "hacking": "the reward rises while held-out {metric} fell from {before:.3f} to {now:.3f} since step {since}",
    "diversity": "held-out {metric} fell from {before:.3f} to {now:.3f} since step {since} while pass@1 rises",
    "coverage": "held-out {metric} fell from {before:.3f} to {now:.3f} since step {since}",
}
STEADY = ("entropy", "spent", "floor", "slope", "lock_in", "diversity", "collapsing")
"""Signs that an entropy term answers."""


def said(signal: str, finding: Finding, trace: Trace, watch: Watch) -> str:
    """The evidence of a signal."""
    numbers = {
        "before": finding.before,
        "now": finding.now,
        "since": finding.since,
        "threshold": finding.threshold,
        "metric": finding.metric,
        "left": finding.now / finding.before if finding.before else 0.0,
        "steps": int(trace.last[-1]["step"]) - finding.since,
    }
    text = SAID[signal].format(**numbers)
    dead = trace.now("groups/dead", watch)
    crowd = signal in ("entropy", "spent", "floor", "slope") and dead is not None and dead.value >= CROWD
    return f"{text} while {dead.value:.0%} of the groups are dead" if crowd and dead is not None else text


def remedy(signal: str, options: Mapping[str, Any]) -> str:
    """What to do, in options that this run has; they are those of a new run, for a resumed one keeps its options."""
    if signal in STEADY:
        return " or ".join([*_entropy(options), *_slower(options)]) or BACK
    if signal in ("update_kl", "clip"):
        return " or ".join([*_slower(options), "take fewer updates a step (descent.minibatches, descent.epochs)"])
    if signal in ("length", "truncated", "repetition"):
        return " or ".join(["read rollouts/ for what is repeated", "raise rollout.max_tokens", *_slower(options)])
    if signal == "dead":
        return "use harder or easier prompts, or a method that drops or uses such groups (dapo, greso, rl_zvp)"
    return " or ".join([BACK, *_slower(options)])


def _entropy(options: Mapping[str, Any]) -> list[str]:
    """Ways to keep entropy that the record leaves open."""
    clip, method = options.get("objective.high"), str(options["method"])
    ways = [f"set objective.high={HIGH} (clip-higher)"] if isinstance(clip, float) and clip < HIGH else []
    bonus = [path for path, part in options.items() if part == "EntropyBonus" and "terms." in path]
    if bonus:
        return [*ways, *(f"raise {path}.coef (now {options[f'{path}.coef']:g})" for path in bonus)]
    combines = any(path.partition(".")[0] == "terms" for path in options)  # not a search, nor stages
    return [*ways, f"train {method}+entropy_bonus with a coef of {BONUS}"] if combines else ways


def _slower(options: Mapping[str, Any]) -> list[str]:
    """A lower learning rate, where the record has one."""
    rate = options.get("descent.lr")
    return [f"lower descent.lr (now {rate:g})"] if isinstance(rate, float) else []


def stop_notes(config: RunConfig) -> list[str]:
    """What has to be said of `watch.stop`. InputError where nothing is looked at."""
    watch, evaluate = config.watch, config.evaluate
    if watch.stop and not watch.every:
        raise InputError(
            "watch.stop waits for a sign of a collapse, and watch.every=0 looks for none: set watch.every=1"
        )
    if not watch.stop:
        return []
    if evaluate.every:
        return late_notes(config)
    return [
        "stopping at a collapse without held-out evaluation: signs of the training alone decide, which err more often "
        f"({PAGE}), and no checkpoint is kept as the best: set evaluate.every"
    ]


def late_notes(config: RunConfig) -> list[str]:
    """What has to be said where held-out evidence of a collapse comes late or never.

    It takes two evaluations, of which the start model's is one.
    """
    base = config.evaluate.baseline
    first = config.evaluate.every * (1 if base else 2)
    waits = f"stopping at a collapse waits for the {'first' if base else 'second'} held-out evaluation, of step {first}"
    if first >= config.steps:
        return [f"{waits}, and the run ends with step {config.steps}: set a smaller evaluate.every"]
    return [] if base else [f"{waits}: with evaluate.baseline=true the first is enough"]
