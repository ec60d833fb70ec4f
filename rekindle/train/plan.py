"""What a run will amount to before it starts (`--dry-run`), and what a resumed run may not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekindle.errors import InputError
from rekindle.train import options
from rekindle.train.config import Resolved
from rekindle.train.settings import RunConfig, samples_per_prompt

FREE = ("out", "track.sinks", "vllm.url")
"""Options that may differ between a run and its resumption."""


@dataclass(frozen=True)
class Row:
    """One line of a plan. origin: the layer that an option comes from, "derived" for a number that follows."""

    name: str
    value: Any
    origin: str


def plan(resolved: Resolved) -> list[Row]:
    """The numbers that follow from the options, then every option with its origin (`--dry-run`)."""
    rows = [Row(name, value, "derived") for name, value in derived(resolved).items()]
    return rows + [Row(path, value, resolved.origin[path]) for path, value in resolved.options.items()]


def derived(resolved: Resolved) -> dict[str, int]:
    """Samples, trained rows, updates and tokens that a step and the run amount to; tokens are upper bounds."""
    config, flat = resolved.config, resolved.options
    samples = config.rollout.prompts * samples_per_prompt(resolved.record, config.rollout)
    numbers = {
        "steps": config.steps,
        "samples a step": samples,
        "trained rows a step": config.rollout.prompts * config.rollout.group,
        "response tokens a step, at most": samples * config.rollout.max_tokens,
        "samples in all": samples * config.steps,
    }
    if "descent.epochs" in flat and "descent.minibatches" in flat:
        units = config.rollout.prompts * (config.rollout.group if flat["descent.cut_groups"] else 1)
        updates = flat["descent.epochs"] * min(flat["descent.minibatches"], units)
        numbers |= {"updates a step": updates, "updates in all": updates * config.steps}
    return numbers


def compare_for_resume(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of the options that differ between two flat sets, sorted; where events go does not count."""
    usual = RunConfig(method="").flat()  # an option that an older version did not have stood at its default
    old = {**{name: usual[name] for name in new.keys() & usual.keys()}, **old}
    names = (old.keys() | new.keys()) - set(FREE)
    return sorted(name for name in names if name not in old or name not in new or old[name] != new[name])


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise InputError naming the options that a resumed run may not change."""
    changed = compare_for_resume(old, new)
    if changed:
        said = ", ".join(f"{n} ({options.show(old.get(n))} -> {options.show(new.get(n))})" for n in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise InputError(f"--resume with changed options: {said}{more}; give the old ones back, or another --out")
